"""On-the-fly degradation gives the images that a corpus on disk would hold."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_photo
from interrupted import Killer, tree
from small_corpus import write_corpus
from small_runs import seen, small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place
from img2img_data.corpus.format import image_rng, stream_of
from img2img_data.corpus.reader import Pair
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_spec
from img2img_data.images import io
from img2img_train.config import RunConfig, config_of
from img2img_train.data import dataset, loader
from img2img_train.data.color import denormalize
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.runs.folder import RunFolder
from img2img_train.training import fit as loop
from img2img_train.training.setup import RunData, resolve_auto
from img2img_train.training.signals import StoppedBySignal

CPU = torch.device("cpu")
PAIRS = tuple(Pair(f"k{n}", "train", Path(), Path(), {"source_hex": f"{n:02x}"}) for n in range(3))
MORE: dict[str, Any] = {
    "chain-of-blurs": [{"gaussian": {"sigma": [0.5, 2]}}, {"resize": {"factor": [1, 3]}}],
    "sharp-inside": [{"resize": {"factor": 2, "up": "lanczos"}}, {"gaussian": {"sigma": 1}}],
    "sharp-last": [
        {"gaussian": {"sigma": 1}},
        {"resize": {"factor": [2, 5], "up": ["cubic", "lanczos"]}},
    ],
}


def on_the_fly_of(kind: str) -> OnTheFly:
    if kind in MORE:
        return OnTheFly(parse_spec(MORE[kind], Place()).degradation, 3)
    if kind.startswith("albumentations"):
        pytest.importorskip("albumentations")
    return OnTheFly(DEGRADATIONS[kind].example(), 3)


@pytest.mark.parametrize("kind", [*DEGRADATIONS, *MORE])
@pytest.mark.parametrize("size", [(24, 24), (21, 34)])
def test_on_the_fly_equals_a_corpus_on_disk(kind: str, size: tuple[int, int]) -> None:
    online = on_the_fly_of(kind)
    clean = np.stack([make_photo(n, size[1], size[0]) for n in range(3)])
    clean[1] = np.where(make_photo(1, size[1], size[0]) > 128, 255, 0)
    raw = loader.RawBatch(clean, clean, None)
    batch = loader.to_device(loader._degrade(online, raw, PAIRS, 5), CPU)
    for number, pair in enumerate(PAIRS):
        drawn = online.degradation.draw(image_rng(3, bytes([number]), 5))
        offline = online.degradation.apply(clean[number], "yx", **drawn)
        degraded = denormalize(batch.input[number : number + 1])[0].numpy()
        assert np.abs(degraded.astype(int) - offline).max() <= 1, pair
        assert np.array_equal(denormalize(batch.target[number : number + 1])[0], clean[number])


def test_tiles_of_a_source_draw_their_own_numbers_as_on_disk() -> None:
    online, row = on_the_fly_of("noise"), {"source_hex": "61", "tile_left": 64, "tile_top": 0}
    tile, image = (Pair("k", "train", Path(), Path(), r) for r in (row, {"source_hex": "61"}))
    assert online.draw(tile, None) == online.degradation.draw(
        image_rng(3, stream_of(b"a", (64, 0)))
    )
    assert online.draw(tile, None) != online.draw(image, None)


def test_linear_degradations_run_on_the_device() -> None:
    assert {k for k in ("gaussian", "random-gaussian", "resize") if on_the_fly_of(k).is_linear} == {
        "gaussian",
        "random-gaussian",
        "resize",
    }
    assert [on_the_fly_of(name).is_linear for name in MORE] == [True, False, True]
    assert not on_the_fly_of("jpeg").is_linear


def test_every_epoch_draws_anew_and_validation_does_not() -> None:
    online = on_the_fly_of("noise")
    seen = [str(online.draw(PAIRS[0], epoch)) for epoch in (0, 1, None)]
    assert len(set(seen)) == 3
    assert online.draw(PAIRS[0], None) == online.degradation.draw(image_rng(3, b"\0"))


# ----------------------------------------------------------------------------------------- in a run
SHARES = {"stored_share": 0.4, "clean_share": 0.3}
RECIPES: dict[str, dict[str, Any]] = {
    "gaussian": {"degrade": {"gaussian": {"sigma": [0.5, 2]}}},
    "noise": {"degrade": {"noise": {"sigma": [5, 25]}}},
}
MIXTURES = {f"{kind} and shares": {**RECIPES[kind], **SHARES} for kind in RECIPES}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "c", {"train": 6, "val": 2}, size=(16, 16)
    )


@pytest.mark.parametrize("kind", [*RECIPES, *MIXTURES])
@pytest.mark.parametrize(("cache", "workers"), [("off", 0), ("ram", 0), ("off", 2)])
def test_all_readers_give_the_same_images(
    kind: str, cache: str, workers: int, corpus: Path
) -> None:
    data = RunData.open(small_config("l2", corpus, **(RECIPES | MIXTURES)[kind], flip=True))
    numbers = range(1, 6)

    def seen(cache: str, workers: int) -> list[loader.RawBatch]:
        store = dataset.cache_images(data.train.for_training(), cache, workers)
        steps = loader.StepDataset(data.plan, store, data.train)
        return list(loader.raw_batches(steps, numbers, workers))

    plain, other = seen("off", 0), seen(cache, workers)
    assert len(plain) == 5
    for one, two in zip(plain, other, strict=True):
        first, second = loader.to_device(one, CPU), loader.to_device(two, CPU)
        assert torch.equal(first.input, second.input)
        assert torch.equal(first.target, second.target)
        assert "shares" in kind or not torch.equal(first.input, first.target)


@pytest.mark.parametrize("jitter", [1.0, 1.5])
@pytest.mark.parametrize("kind", [None, *RECIPES])
def test_shares_of_stored_and_clean_inputs(kind: str | None, jitter: float, corpus: Path) -> None:
    """The other samples are those of a run without shares, and no target changes."""
    steps, settings = range(60), {"flip": True, "crop": 12, "jitter": jitter}

    def run(**more: Any) -> list[loader.Batch]:
        return seen("l2", corpus, steps, net="unet", **settings, **more)

    shares = SHARES if kind else {"clean_share": SHARES["clean_share"]}
    degrade = RECIPES[kind] if kind else {}
    found = []
    for batch, plain, disk in zip(run(**degrade, **shares), run(**degrade), run(), strict=True):
        assert torch.equal(batch.target, plain.target)
        for mixed, target, *others in zip(
            batch.input, batch.target, plain.input, disk.input, strict=True
        ):
            candidates = {"clean": target, "usual": others[0], "stored": others[1]}
            found.append(next(name for name, x in candidates.items() if torch.equal(mixed, x)))
    assert abs(found.count("clean") / len(found) - 0.3) < 0.1
    assert abs(found.count("stored") / len(found) - (0.4 if kind else 0)) < 0.1
    assert found[: len(found) // 2] != found[len(found) // 2 :]


@pytest.mark.parametrize("kind", ["gaussian", "noise and shares"])
def test_a_run_shows_the_first_pairs_of_its_training(
    kind: str, corpus: Path, tmp_path: Path
) -> None:
    settings = (RECIPES | MIXTURES)[kind] | {"flip": True, "crop": 12, "net": "unet", "samples": 5}
    loop.fit(small_config("l2", corpus, tmp_path, **settings, max_steps=1), Display())
    batches = seen("l2", corpus, range(3), **settings)
    halves = [torch.cat(x)[:5] for x in zip(*((b.input, b.target) for b in batches), strict=True)]
    shown = io.read(RunFolder(tmp_path).training_samples).pixels
    assert np.array_equal(shown, denormalize(torch.cat(halves, 3)).flatten(0, 1).numpy())


@pytest.mark.parametrize("kind", [*RECIPES, "noise and shares"])
def test_an_interrupted_run_resumes_exactly(kind: str, corpus: Path, tmp_path: Path) -> None:
    def fit(name: str, display: Display | None = None) -> Path:
        settings = (RECIPES | MIXTURES)[kind] | {"checkpoint_seconds": 0, "flip": True}
        loop.fit(small_config("l2", corpus, tmp_path / name, **settings), display or Display())
        return tmp_path / name

    expected = tree(fit("uninterrupted"))
    with pytest.raises(StoppedBySignal):
        fit("stopped", Killer("training", 4, signal.SIGTERM))
    assert tree(fit("stopped")) == expected


def test_held_out_pairs_are_those_of_the_corpus(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4, "val": 2})
    data = RunData.open(small_config("l2", corpus, degrade={"noise": {"sigma": 90}}))
    plain = RunData.open(small_config("l2", corpus))
    assert data.held_out is not None
    assert plain.held_out is not None
    for index in range(2):
        assert all(map(np.array_equal, data.held_out.read(index), plain.held_out.read(index)))
    assert not np.array_equal(data.train.read(0)[0], plain.train.read(0)[0])


def test_a_run_keeps_the_spec_and_needs_no_recipe(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("degradation:\n  - gaussian: {sigma: 2}\n  - noise\n")
    config = small_config("l2", corpus, tmp_path / "run", degrade=str(recipe))
    loop.fit(config, Display())
    os.unlink(recipe)
    again = RunConfig.load(tmp_path / "run")
    assert again.degrade == config.degrade
    assert not again.changes(resolve_auto(config))
    assert parse_spec(again.degrade, Place()) == parse_spec(
        [{"gaussian": {"sigma": 2}}, "noise"], Place()
    )


@pytest.mark.parametrize(
    ("degrade", "message"),
    [
        ("gausian", "did you mean 'gaussian'"),
        ({"gaussian": {"sigma": -1}}, "gaussian.sigma"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_an_unknown_degradation_is_one_line(degrade: Any, message: str, corpus: Path) -> None:
    with pytest.raises(UsageError, match=message):
        small_config("l2", corpus, degrade=degrade)


@pytest.mark.parametrize("settings", [{"degrade": "gaussian"}, {"clean_share": 0.1}])
def test_unpaired_losses_take_none(settings: dict[str, Any], corpus: Path) -> None:
    with pytest.raises(UsageError, match="cyclegan"):
        RunData.open(small_config("cyclegan", corpus, **settings))


@pytest.mark.parametrize("settings", [{"degrade": "gaussian"}, {"clean_share": 0.1}])
def test_inputs_made_of_targets_have_their_channels(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    info = {"channels": {"input": 1, "target": 3}}
    corpus = write_corpus(tmp_path / "c", {"train": 2}, size=(16, 16), info=info)
    with pytest.raises(UsageError, match="the corpus maps gray to RGB"):
        RunData.open(small_config("l1", corpus, **settings))


@pytest.mark.parametrize(
    "settings",
    [{"stored_share": 0.5}, {"degrade": "gaussian", "stored_share": 0.6, "clean_share": 0.5}],
)
def test_shares_that_cannot_be_met_are_one_line(settings: dict[str, Any], corpus: Path) -> None:
    with pytest.raises(UsageError, match="share"):
        config_of({"corpora": corpus, **settings})

"""Whole runs: plans, batches, checkpoints, the command line, errors in one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_photo, write_photos
from small_corpus import write_corpus
from small_runs import command

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CheckpointError, CorpusError, Img2ImgError, UsageError
from img2img_data.images import io
from img2img_train.config import RunConfig, configure, read_recipe
from img2img_train.data import dataset, loader
from img2img_train.data.color import denormalize
from img2img_train.data.loader import SamplingPlan
from img2img_train.distributed.memory import catch_out_of_memory
from img2img_train.inference.translate import translate
from img2img_train.metrics.registry import IMAGE_METRICS
from img2img_train.networks.registry import build
from img2img_train.networks.specs import NetworkSpec
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs import folder as run
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import load_generator
from img2img_train.training import fit as loop
from img2img_train.training.validation import batch_psnr

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = Path(__file__).parents[3] / "recipes"
TINY: dict[str, Any] = {
    "preset": "original",
    "precision": "fp32",
    "width": 4,
    "batch": 4,
    "epochs": 2,
    "threads": 1,
    "samples_every": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 10, "val": 3}, size=(16, 32)
    )


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(corpus, tmp_path_factory.mktemp("runs") / "finished")


def train(corpus: Path | str, out: Path, **settings: Any) -> Path:
    loop.fit(RunConfig(**{**TINY, **settings, "corpora": corpus, "out": str(out)}), Display())
    return out


# ------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("counts", "weights", "drawn"),
    [
        ((10,), (1,), (10,)),
        ((10, 30), (1, 1), (20, 20)),
        ((10, 30), (3, 1), (30, 10)),
        ((5, 0), (1, 9), (5, 0)),
    ],
)
def test_weights_are_shares_of_an_epoch(counts: Any, weights: Any, drawn: Any) -> None:
    plan = SamplingPlan(counts, weights, 4, 0)
    assert plan.drawn() == drawn
    order = plan.order(0)
    assert len(order) == sum(counts)
    edges = np.cumsum([0, *counts])
    for start, end, share in zip(edges, edges[1:], drawn, strict=False):
        seen = Counter(int(i) for i in order if start <= i < end)
        assert sum(seen.values()) == share
        assert (
            max(seen.values(), default=0) - min((seen[i] for i in range(start, end)), default=0)
            <= 1
        )


def test_a_step_depends_on_its_number_only() -> None:
    plan, again = (SamplingPlan((10, 7), (1, 2), 4, 5, flip=True) for _ in range(2))
    forward = [plan.step(n) for n in range(12)]
    backward = [again.step(n) for n in reversed(range(12))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert np.array_equal(a.indices, b.indices)
        assert np.array_equal(a.orientations, b.orientations)
    assert not np.array_equal(plan.order(0), plan.order(1))
    assert not np.array_equal(plan.order(0), SamplingPlan((10, 7), (1, 2), 4, 6).order(0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["ram", "off"])
def test_neither_workers_nor_cache_change_a_batch(corpus: Path, cache: str, workers: int) -> None:
    config = RunConfig(corpora=corpus)
    pairs = dataset.open_pairs(config, "train")
    assert pairs is not None
    plan = SamplingPlan(pairs.counts, (1,), 4, 0, flip=True)
    plain = list(loader.raw_batches(loader.StepDataset(plan, pairs, pairs), range(1, 5), 0))
    state = torch.get_rng_state()
    store = dataset.cache_images(pairs, cache, workers)
    steps = loader.StepDataset(plan, store, pairs)
    other = list(loader.raw_batches(steps, range(1, 5), workers))
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(plain, other, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(vars_of(a), vars_of(b), strict=True))


def vars_of(raw: loader.RawBatch) -> tuple[Any, ...]:
    return raw.inputs, raw.targets, raw.orientations


def test_bytes_survive_the_device_and_a_flip_mirrors_both_images() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    raw = loader.RawBatch(values, values[:, ::-1].copy(), np.array([[True], [True]]))
    batch = loader.to_device(raw, torch.device("cpu"))
    assert float(batch.input.min()) == -1
    assert float(batch.input.max()) == 1
    assert np.array_equal(denormalize(batch.input).numpy(), values[:, :, ::-1])
    assert np.array_equal(denormalize(batch.target).numpy(), values[:, ::-1, ::-1])


# ------------------------------------------------------------------------------ the original work
def test_the_autoencoder_is_the_one_of_the_original_work() -> None:
    shapes = [
        tuple(p.shape) for p in build(NetworkSpec(name="autoencoder")).parameters() if p.ndim == 4
    ]
    assert shapes == [
        (64, 3, 5, 5), (128, 64, 5, 5), (256, 128, 5, 5), (512, 256, 5, 5),
        (512, 256, 5, 5), (256, 128, 5, 5), (128, 64, 5, 5), (64, 3, 5, 5),
    ]  # fmt: skip


def test_psnr_in_training_equals_that_of_the_evaluation() -> None:
    a, b = (np.stack([make_photo(s + i, 16, 16) for i in range(3)]) for s in (0, 1))
    b[2] = a[2]
    found = batch_psnr(torch.from_numpy(a), torch.from_numpy(b)).tolist()
    assert found == pytest.approx(
        [IMAGE_METRICS["psnr"].compute(x, y) for x, y in zip(a, b, strict=True)]
    )


# ------------------------------------------------------------------------------------- a whole run
def test_a_run_writes_the_files_it_promises(finished: Path, corpus: Path) -> None:
    rows = run.read_log(finished)
    assert [(r["kind"], r["epoch"], r["step"]) for r in rows] == [
        ("train", 1, 2), ("validation", 1, 2), ("train", 2, 4), ("validation", 2, 4)
    ]  # fmt: skip
    assert len(run.sample_paths(finished)) == 1
    grid = io.read(run.sample_paths(finished)[0]).pixels
    assert grid.shape == (3 * 32, 3 * 16, 3)
    assert np.array_equal(grid[:32, :16], io.read(corpus / "val/input/000.png").pixels)
    assert RunConfig.load(finished).out == str(finished)
    assert not RunFolder(finished).previous.exists()
    best = max(r["psnr"] for r in rows if r["kind"] == "validation")
    model = load_generator(finished, "cpu")
    psnr = []
    for number in range(3):
        source, target = (
            io.read(corpus / f"val/{half}/00{number}.png").pixels for half in ("input", "target")
        )
        psnr.append(IMAGE_METRICS["psnr"].compute(model.restore(source[None])[0], target))
    assert np.mean(psnr) == pytest.approx(best, abs=0.02)


def test_a_finished_run_is_not_changed(finished: Path, corpus: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.*") if p.is_file()}
    result = loop.fit(RunConfig(**TINY, corpora=corpus, out=str(finished)), Display())
    assert result.already
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*.*") if p.is_file()}


def test_direction_swaps_the_halves(corpus: Path, tmp_path: Path) -> None:
    there, back = (
        dataset.open_pairs(RunConfig(corpora=corpus, direction=d), "val") for d in ("AtoB", "BtoA")
    )
    assert there is not None
    assert back is not None
    assert all(np.array_equal(a, b) for a, b in zip(there.read(1), back.read(1)[::-1], strict=True))


@pytest.mark.parametrize("layout", ["combined", "bare"])
def test_other_layouts_give_the_same_run(finished: Path, tmp_path: Path, layout: str) -> None:
    same = write_corpus(tmp_path / "c", {"train": 10, "val": 3}, layout="combined", size=(16, 32))
    if layout == "bare":
        (same / "corpus.json").unlink()
        for manifest in same.glob("*/metadata.jsonl"):
            manifest.unlink()
    out = train(same, tmp_path / "run")
    assert run.read_log(out) == run.read_log(finished)


def test_one_image_a_batch_and_no_validation(tmp_path: Path) -> None:
    lonely = write_corpus(tmp_path / "c", {"train": 3}, size=(32, 16))
    out = train(lonely, tmp_path / "run", batch=1, max_steps=4, net="unet")
    assert [(r["kind"], r["step"]) for r in run.read_log(out)] == [("train", 3), ("train", 4)]
    assert load_generator(out, "cpu").path == RunFolder(out).latest


def test_bf16_trains_in_bf16_and_restores_in_float32(corpus: Path, tmp_path: Path) -> None:
    out = train(corpus, tmp_path / "run", precision="bf16", epochs=1)
    assert RunConfig.load(out).precision == "bf16"
    assert next(load_generator(out, "cpu").generator.parameters()).dtype == torch.float32


# --------------------------------------------------------------------------------------- rejections
def test_other_settings_or_other_pairs_are_rejected(
    finished: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"other settings \(lr was 0.0002, now 0.1\).*another --out"
    ):
        train(corpus, finished, lr=0.1)
    with pytest.raises(UsageError, match=r"degrade was None, now noise: gray: 0.0, sigma: 10.0"):
        train(corpus, finished, degrade="noise")
    with pytest.raises(UsageError, match=r"other settings \(degrade differs\)"):
        train(corpus, finished, degrade="mixed")
    with pytest.raises(UsageError, match=r"\(epochs was \d+, now 9; lr was 0.0002, now 0.1\)"):
        train(corpus, finished, lr=0.1, epochs=9)
    other = write_corpus(tmp_path / "corpus", {"train": 9, "val": 3}, size=(16, 32))
    config = RunConfig.load(finished).model_copy(
        update={"corpora": RunConfig(corpora=other).corpora}
    )
    page = json.loads(RunFolder(finished).config.read_text())
    with pytest.raises(UsageError, match="other settings"):
        loop.fit(config, Display())
    copied = tmp_path / "run"
    copied.mkdir()
    page["config"]["corpora"] = [{"path": str(other), "weight": 1.0}]
    (copied / "config.json").write_text(json.dumps(page))
    with pytest.raises(UsageError, match=r"its config.json was edited .*; undo the edit"):
        loop.fit(config.model_copy(update={"out": str(copied)}), Display())
    del page["digest"]
    (copied / "config.json").write_text(json.dumps(page))
    with pytest.raises(UsageError, match="other pairs"):
        loop.fit(config.model_copy(update={"out": str(copied)}), Display())


@pytest.mark.parametrize("spelling", ["relative", "dots", "link", "elsewhere"])
def test_another_spelling_of_a_corpus_is_the_same_run(
    spelling: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    first = corpus.name if spelling == "elsewhere" else str(corpus)
    out = train(first, tmp_path / "run", max_steps=1)
    (tmp_path / "link").symlink_to(corpus)
    if spelling == "elsewhere":
        monkeypatch.chdir(corpus)
    spelled = {"link": tmp_path / "link", "elsewhere": "../" + corpus.name, "dots": f"{corpus}/./"}
    same = RunConfig(**TINY, corpora=spelled.get(spelling, corpus.name), out=str(out), max_steps=1)
    assert loop.fit(same, Display()).already
    with pytest.raises(UsageError, match=r"other settings \(corpora was"):
        train(f"{corpus}=2", out, max_steps=1)


def test_resources_may_change(finished: Path, corpus: Path) -> None:
    train(corpus, finished, workers=2, cache="off", threads=2, checkpoint_seconds=1)


def test_a_folder_in_use_or_of_others_is_rejected(
    corpus: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(run, "LOCK_WAIT_SECONDS", 0)
    with RunFolder(tmp_path / "run").lock(), pytest.raises(UsageError, match="in use"):
        train(corpus, tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds other files"):
        train(corpus, tmp_path / "photos")


def test_images_that_do_not_fit_are_named(corpus: Path, tmp_path: Path) -> None:
    odd = write_corpus(tmp_path / "odd", {"train": 2}, size=(12, 5))
    with pytest.raises(UsageError, match=r"multiple of 16.*12x5 .*up to 16; .*--size 16"):
        train(odd, tmp_path / "run")
    mixed = write_corpus(tmp_path / "mixed", {"train": 3}, size=(32, 32))
    (mixed / "train/target/002.png").write_bytes(io.encode(make_photo(1, 16, 32), "png"))
    with pytest.raises(CorpusError, match=r"002.png.*16x32.*32x32.*--size"):
        train(mixed, tmp_path / "run")
    (mixed / "train/target/002.png").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"002.png.*empty"):
        train(mixed, tmp_path / "run2")
    with pytest.raises(UsageError, match=r"split 'trian'.*train, val"):
        train(corpus, tmp_path / "run3", split="trian")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {epohcs: 3}", "'run.epohcs': unknown; did you mean 'epochs'"),
        ("run: {epochs: 0}", "line 1: key 'run.epochs'.*greater than or equal to 1"),
        (
            "run: {corpora: [{path: a, wieght: 2}]}",
            "corpora.0.wieght': unknown; did you mean 'weight'",
        ),
        ("run: {preset: [x]}", r"'run.preset': .* is unknown; choose one of"),
        ("about: x", "no section 'run'"),
        ("rnu: {epochs: 3}", "line 1: key 'rnu': unknown; did you mean 'run'"),
        ("run: {epochs: 3}\nsmok: {}", "line 2: key 'smok': unknown; did you mean 'smoke'"),
        ("- 1", "not a mapping"),
        ("run: [", "line 1 of recipe .*is not YAML"),
        ("run: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_recipe(tmp_path / "r.yaml")
    assert "r.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_with_a_run_can_be_run(path: Path) -> None:
    text = path.read_text()
    for section in ("run", "smoke"):
        if f"\n{section}:" in text:
            config = configure(read_recipe(path, smoke=section == "smoke"))
            assert (
                config.out == f"runs/{path.stem}{'-smoke' * (section == 'smoke')}"
                or path.stem == "demo"
            )
            config.objective.networks((3, 3))


def test_a_small_run_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "run: {corpora: a, out: b, epochs: 9}\nsmoke: {run: {epochs: 2}}\n"
    )
    assert configure(read_recipe(tmp_path / "r.yaml")).epochs == 9
    small = configure(read_recipe(tmp_path / "r.yaml", smoke=True))
    assert (small.epochs, small.out) == (2, "b-smoke")
    (tmp_path / "r.yaml").write_text("run: {corpora: a}\nsmoke: {run: {epohcs: 2}}\n")
    with pytest.raises(
        UsageError, match=r"line 2: key .smoke\.run\.epohcs.: unknown; did you mean .epochs."
    ):
        read_recipe(tmp_path / "r.yaml", smoke=True)
    (tmp_path / "r.yaml").write_text("run: {corpora: a}\n")
    with pytest.raises(UsageError, match="no section 'smoke'"):
        read_recipe(tmp_path / "r.yaml", smoke=True)


def test_the_command_line_overrides_the_recipe(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(f"run: {{corpora: {corpus}, epochs: 3, net: unet}}\n")
    assert command("--recipe", "r.yaml", "--epochs", "2", "--dry-run") == 0
    assert "2 epochs; into 'runs/corpus-charbonnier-unet'" in capsys.readouterr().out


def test_a_run_without_a_folder_is_named_after_its_settings(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("run: {corpora: [a, b=2], epochs: 3, lr: 0.1}\ncorpus: []\n")
    config = configure({**read_recipe(tmp_path / "r.yaml"), "lr": 0.5})
    assert (config.epochs, config.lr, config.out) == (3, 0.5, "runs/a+b-charbonnier-edsr")
    many = configure({"corpora": [f"corpora/c{number}" for number in range(99)]})
    assert many.out == "runs/c0+98-charbonnier-edsr"
    assert [(c.path, c.weight) for c in config.corpora] == [("a", 1), ("b", 2)]
    with pytest.raises(UsageError, match="give at least one corpus"):
        configure({})


# ------------------------------------------------------------------------------------ checkpoints
def with_description(content: bytes, description: str) -> bytes:
    """The content of a checkpoint with another description, and a digest that agrees."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {"img2img": description, "digest": "0" * 64}
    text = json.dumps(header, separators=(",", ":")).encode()
    changed = struct.pack("<Q", len(text)) + text + content[8 + length :]
    return changed.replace(b"0" * 64, hashlib.sha256(changed).hexdigest().encode())


def damaged(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    about = checkpoints.read_description(path).model_dump(mode="json")
    about["networks"]["generator"]["width"] = 8
    return {
        "is empty": b"",
        "not a safetensors": content[:7],
        "is damaged": content[:-4],
        "SHA-256": bytes(flipped),
        "is damaged ": struct.pack("<Q", 100_000) + b"[" * 200_000,
        "does not fit its network": with_description(content, json.dumps(about)),
        "describes an unknown model": with_description(content, "[" * 100_000),
    }


def test_damaged_checkpoints_are_rejected_in_one_line(finished: Path, tmp_path: Path) -> None:
    for number, (message, content) in enumerate(damaged(RunFolder(finished).best).items()):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message.strip()) as error:
            load_generator(path, "cpu")
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            load_generator(missing, "cpu")


@pytest.mark.parametrize("name", ["resume", "report"])
def test_a_checkpoint_in_place_of_a_run_folder_is_named(
    name: str, finished: Path, capsys: Any
) -> None:
    assert command(name, RunFolder(finished).latest) == 2
    assert (
        "latest.safetensors': has no config.json; give the folder of a run"
        in capsys.readouterr().err
    )


def test_weights_that_are_not_finite_are_neither_written_nor_read(
    finished: Path, tmp_path: Path
) -> None:
    content = checkpoints.read_checkpoint(RunFolder(finished).best)
    name = next(name for name, tensor in content.tensors.items() if tensor.is_floating_point())
    damaged_tensors = {**content.tensors, name: torch.full_like(content.tensors[name], torch.nan)}
    with pytest.raises(CheckpointError, match="not finite"):
        checkpoints.write_checkpoint(
            tmp_path / "x.safetensors", damaged_tensors, content.description
        )
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_what_safetensors_itself_writes(finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import save

    about = checkpoints.read_description(RunFolder(finished).best)
    tensors = {
        f"{n}": torch.arange(6).to(kind).view(2, 3) for n, kind in enumerate(checkpoints.DTYPES)
    }
    tensors |= {"none": torch.zeros(0), "one": torch.tensor(3), "turned": torch.rand(3, 4).T}
    checkpoints.write_checkpoint(tmp_path / "x.safetensors", tensors, about)
    written, expected = (
        (tmp_path / "x.safetensors").read_bytes(),
        save({n: t.contiguous() for n, t in tensors.items()}),
    )
    headers = [
        json.loads(f[8 : 8 + struct.unpack("<Q", f[:8])[0]]) | {"__metadata__": None}
        for f in (written, expected)
    ]
    assert headers[0] == headers[1]
    assert written.endswith(expected[8 + struct.unpack("<Q", expected[:8])[0] :])
    again = checkpoints.read_checkpoint(tmp_path / "x.safetensors")
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in tensors.items())


def test_a_checkpoint_needs_no_other_file(finished: Path, tmp_path: Path) -> None:
    single = tmp_path / "model.safetensors"
    single.write_bytes(RunFolder(finished).latest.read_bytes())
    model = load_generator(single, "cpu")
    assert (model.spec.name, model.spec.width, model.step, model.color) == (
        "autoencoder",
        4,
        4,
        "rgb",
    )
    assert model.config.epochs == 2


# -------------------------------------------------------------------------------------- translate
def test_translate_takes_any_size_and_lists_the_bad(finished: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "in" / "deep er", 1, 37, 23)
    write_photos(tmp_path / "in", 1, 16, 32, ".png")
    (tmp_path / "in" / "x.png").write_bytes(io.encode(make_photo(5, 1, 1), "png"))
    (tmp_path / "in" / "text.jpg").write_text("no image")
    (tmp_path / "in" / "notes.txt").write_text("skipped")
    (tmp_path / "in" / ".hidden.png").write_text("skipped")
    model = load_generator(finished, "cpu")
    done = translate(model, tmp_path / "in", tmp_path / "out")
    assert (done.restored, done.rejected) == (3, {"not-an-image": ["text.jpg"]})
    sizes = {
        p.relative_to(tmp_path / "out").as_posix(): io.read(p).size
        for p in (tmp_path / "out").rglob("*.png")
    }
    assert sizes == {"deep er/000.png": (37, 23), "000.png": (16, 32), "x.png": (1, 1)}
    rows = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(r["source"], r["reason"]) for r in rows] == [("text.jpg", "not-an-image")]
    source = io.read(tmp_path / "in/000.png").pixels
    assert np.array_equal(io.read(tmp_path / "out/000.png").pixels, model.restore(source[None])[0])


# -------------------------------------------------------------------------------- the command line
def test_the_command_line_from_start_to_end(
    corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--width", 4, "--batch", 4, "--epochs", 1, "--threads", 1, "--device", "cpu"]
    words = [f"{corpus}=2", "--loss", "l1", "--out", "run", *tiny]
    assert command(*words, "--dry-run", "--clean-share", 0.2) == 0
    message = capsys.readouterr().out
    assert "10 pairs of 16x32" in message
    assert "steps of 4 pairs, 1 epoch;" in message
    assert "20% of the inputs are clean (--clean-share), so that the model learns" in message
    assert command(*words, "--dry-run", "--batch", 1) == 0
    message = capsys.readouterr().out
    assert "steps of 1 pair, 1 epoch;" in message
    assert "draws" not in message
    shutil.copytree(corpus, "other")
    assert command("other", *words, "--dry-run") == 0
    assert f"; an epoch draws 7 of other + 13 of {corpus}" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert command(*words) == 0
    message = capsys.readouterr()
    assert "report: run/report.html" in message.out
    assert "epoch 1/1" in message.err
    assert (tmp_path / "run/report.html").is_file()
    assert command("resume", "run") == 0
    message = capsys.readouterr().out
    assert "already finished" in message
    assert "PSNR" not in message.partition("\n")[2]
    shutil.rmtree("run/evaluation")
    assert command("report", "run") == command(*words) == 0, "a report without scores is no end"
    assert f"'{corpus}' val: PSNR" in capsys.readouterr().out
    assert command("evaluate", "run", "--on", corpus, "--split", "val", "--out", "m") == 0
    message = capsys.readouterr()
    assert "scores: m/index.html" in message.out
    assert "replaced" not in message.err
    Path("m/notes.txt").write_text("x")
    assert command("evaluate", "run", "--on", corpus, "--split", "val", "--out", "m") == 0
    assert "note: replaced the results of an earlier evaluation" in capsys.readouterr().err
    assert Path("m/notes.txt").read_text() == "x"
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert command("evaluate", "run", "--on", corpus, "--split", "val", "--out", "run") == 2
    assert "output 'run': holds other files (" in capsys.readouterr().err
    assert command("evaluate", "nowhere", "--on", corpus, "--out", "m/notes.txt") == 2
    assert "output 'm/notes.txt': is a file, not a folder; choose" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert command("translate", "run", corpus / "val/input", "out") == 0
    assert "wrote 3 of 3" in capsys.readouterr().out


def test_a_run_cut_short_counts_the_epochs_that_it_has(
    corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [corpus, "--width", 4, "--batch", 4, "--epochs", 1200, "--no-report", "--threads", 1]
    for steps, described, last in (
        (4, "4 steps of 4 pairs, 2 of 1,200 epochs", "epoch 2/2"),
        (1, "1 step of 4 pairs, 1 of 1,200 epochs", "epoch 1/1"),
    ):
        assert command(*words, "--max-steps", steps, "--out", tmp_path / f"{steps}") == 0
        messages = capsys.readouterr().err
        assert described in messages
        assert last in messages


def test_an_export_does_not_replace_a_checkpoint_of_a_run(
    corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    tiny = ["--net", "unet", "--width", 4, "--batch", 4, "--epochs", 1, "--threads", 1]
    assert command(corpus, *tiny, "--out", run, "--no-report") == 0
    for path in sorted((run / "checkpoints").iterdir()):
        before = path.read_bytes()
        assert command("export", run, path) == 2
        assert "is a file of a run" in capsys.readouterr().err
        assert path.read_bytes() == before
    assert command("export", run, run / "generator.safetensors") == 0
    assert command("export", run, run / "generator.safetensors") == 0


def test_a_dry_run_checks_the_folder_as_the_run_does(
    corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [corpus, "--net", "unet", "--width", 4, "--batch", 4, "--epochs", 1, "--threads", 1]
    assert command(*tiny, "--out", "run", "--no-report") == 0
    capsys.readouterr()
    Path("file").write_text("x")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("x")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for more, why in (
        (("run", "--lr", 0.1), "other settings (lr was"),
        (("file",), "is a file"),
        (("file/run",), "would be inside the file 'file'"),
        (("full",), "holds other files ('notes.txt')"),
    ):
        assert command(*tiny, "--out", *more, "--dry-run") == 2
        message = capsys.readouterr().err
        assert why in message
        assert command(*tiny, "--out", *more) == 2
        assert capsys.readouterr().err == message
    assert (
        command(*tiny, "--out", "run", "--dry-run")
        == command(*tiny, "--out", "new/run", "--dry-run")
        == 0
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@contextlib.contextmanager
def memory_left(size: int) -> Iterator[None]:
    """Limit the memory of this process to ``size`` bytes more than it has."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is catch_out_of_memory as on Linux")
@pytest.mark.parametrize(("width", "begun"), [(512, False), (160, True)])
def test_out_of_memory_is_one_line_with_a_hint(
    width: int, begun: bool, corpus: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [corpus, "--preset", "original", "--precision", "fp32", "--net", "unet"]
    words += ["--batch", 4, "--epochs", 1, "--threads", 1, "--device", "cpu"]
    with memory_left(400_000_000):
        assert command(*words, "--width", width, "--out", "run", "--no-report") == 1
    message = capsys.readouterr().err
    assert (
        "error: run 'run': out of memory on cpu; use a smaller --batch or --accumulate 2" in message
    )
    assert "Traceback" not in message
    assert Path("run/config.json").is_file() == begun == ("another --out" in message)
    lean = [*words, "--width", 4, "--accumulate", 2, "--no-report"]
    assert command(*lean, "--out", "other" if begun else "run") == 0
    assert not begun or command(*lean, "--out", "run") == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is catch_out_of_memory as on Linux")
def test_inference_out_of_memory_is_one_line_with_a_hint(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    large = write_corpus(tmp_path / "corpus", {"train": 1, "test": 8}, size=(512, 512))
    tiny = ["--net", "unet", "--width", 64, "--batch", 1, "--max-steps", 1, "--samples", 1]
    assert command(large, *tiny, "--crop", 32, "--threads", 1, "--no-report", "--out", "run") == 0
    Path("large.png").write_bytes(io.encode(make_photo(1, 1024, 1024), "png"))
    words = ["evaluate", "run", "--on", large, "--out", "scores", "--device", "cpu"]
    whole = ["translate", "run", "large.png", "out.png", "--tile", 1024]
    script = Path(__file__).parents[2] / "memory_limit.py"
    for size, argv, code, message in (
        (400_000_000, [*words, "--batch", 8], 1, "error: scoring: out of memory on cpu; use a sm"),
        (400_000_000, whole, 1, "out of memory on cpu; use a smaller"),
        (20_000_000, words, 2, "does not fit into memory"),
    ):
        all_words = [sys.executable, script, size, *argv]
        done = subprocess.run(list(map(str, all_words)), stderr=subprocess.PIPE, text=True)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_every_out_of_memory_error_is_recognized(error: Exception) -> None:
    pattern = r"^run 'r': out of memory on cuda; less$"
    with (
        pytest.raises(Img2ImgError, match=pattern),
        catch_out_of_memory("run", "r", "cuda", lambda: "less"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), catch_out_of_memory("run", "r", "cuda", str):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("nowhere", "--out", "r"), 2, "nowhere"),
        (("--loss", "l2"), 2, "give at least one corpus"),
        (("x", "--lr", "-1"), 2, "--lr"),
        (("x", "--lrr", "1"), 2, "--lr"),
        (("resume", "nowhere"), 2, "nowhere"),
        (("translate", "nowhere", "x", "y"), 2, "'nowhere': No such file"),
        (("translate", "nowhere", __file__, "y.png", "--dry-run"), 2, "'nowhere': No such file"),
        (("--recipe", "nowhere.yaml"), 2, "nowhere.yaml"),
    ],
)
def test_errors_are_one_line_and_a_code(
    argv: tuple[str, ...], code: int, message: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*argv) == code
    text = capsys.readouterr().err
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_its_corpus_names_the_command_that_builds_it(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("run: {corpora: corpora/x}\nsmoke: {run: {epochs: 2}}\n")
    assert command("--recipe", "r.yaml", "--smoke", "--dry-run") == 2
    assert "'img2img-data build r.yaml --smoke' builds it" in capsys.readouterr().err


def test_the_tree_of_errors_has_its_codes() -> None:
    assert issubclass(CheckpointError, Img2ImgError)
    assert CheckpointError.exit_code == 2


@pytest.mark.parametrize(("count", "chosen"), [(2, [0, 2]), (0, [0, 1, 2]), (5, [0, 1, 2])])
def test_a_validation_scores_as_many_images_as_asked_for(
    count: int, chosen: list[int], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(corpus, tmp_path / "run", epochs=1, validation_images=count)
    assert ("3 pairs held out (2 scored by a validation)" in capsys.readouterr().err) == (
        count == 2
    )
    held_out = dataset.open_images(RunConfig(corpora=str(corpus), out=str(out)), "val")
    assert held_out is not None
    pairs = [[torch.from_numpy(side)[None] for side in held_out.read(index)] for index in chosen]
    expected = torch.cat([batch_psnr(*pair) for pair in pairs]).mean()
    (row,) = (row for row in run.read_log(out) if row["kind"] == "validation")
    assert row["psnr_input"] == pytest.approx(float(expected), abs=1e-6)

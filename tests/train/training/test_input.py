"""Runs whose inputs are deconvolved by the blur that the row of each pair names."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from interrupted import IMAGES, Killer, fit, tree
from small_corpus import degraded_corpus, write_corpus
from small_photos import write
from small_runs import seen, small_config, small_training

from img2img_data.core.errors import UsageError
from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_train.cli import api
from img2img_train.cli.main import main
from img2img_train.config import RunConfig
from img2img_train.data.dataset import open_pairs
from img2img_train.data.pair_dataset import PairDataset
from img2img_train.evaluation.baselines import fit_baselines
from img2img_train.evaluation.evaluate import evaluate_matrix
from img2img_train.evaluation.score import Scoring, read_pair, restored_batches
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.runs.checkpoint import read_checkpoint
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.runs.model import load_generator
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS: Final = {"train": 6, "val": 2, "test": 2}
SIGMA: Final = 1.5
WIENER: Final = {"input": "wiener"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Corpora with a blur that is drawn, with one that is fixed, and with one in some rows."""
    root = tmp_path_factory.mktemp("data")
    specs: dict[str, Any] = {
        "drawn": {"gaussian": {"sigma": [1, 2]}},
        "fixed": {"gaussian": {"sigma": SIGMA}},
        "mixed": {"one-of": ["resize", {"motion": {"length": 5}}]},
    }
    found = {name: degraded_corpus(root / name, spec, SPLITS) for name, spec in specs.items()}
    return found | {"sharp": write_corpus(root / "sharp", SPLITS, size=(40, 36))}


@pytest.fixture(scope="module")
def run(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the fixed blur."""
    return fit([str(corpora["fixed"])], tmp_path_factory.mktemp("run") / "fixed", **WIENER)


def restored_by_hand(corpus: Path, out: Path) -> tuple[Path, float]:
    """Copy a corpus with inputs that the baseline has restored, and no word about it."""
    opened = open_corpus(corpus)
    fitted = fit_baselines("wiener", opened, "test", lambda pair: read_pair(opened, pair))
    shutil.copytree(corpus, out)
    for split in opened.splits:
        for pair in opened.pairs(split):
            output = fitted.restore(pair, read_pair(opened, pair)[0])["wiener"]
            (out / pair.input.relative_to(corpus)).write_bytes(io.encode(output, "png"))
    page = json.loads((out / "corpus.json").read_text())
    (out / "corpus.json").write_text(json.dumps({**page, "recipe": {}}))
    return out, fitted.settings["wiener"]["k"]


@pytest.mark.parametrize("deep", [False, True])
def test_training_equals_that_on_inputs_restored_by_hand(deep: bool, tmp_path: Path) -> None:
    """To the bit: the restored inputs are rounded to the depth of the corpus."""
    spec = {"gaussian": {"sigma": [1, 2]}}
    corpus = degraded_corpus(tmp_path / "blurred", spec, SPLITS, deep)
    hand, ratio = restored_by_hand(corpus, tmp_path / "hand")
    settings = {"crop": 32, "rotate": True, "clean_share": 0.2, "epochs": 1}
    first = fit([str(corpus)], tmp_path / "first", **settings, **WIENER)
    second = fit([str(hand)], tmp_path / "second", **settings)
    assert RunConfig.load(first).noise_ratio == ratio
    one, two = (tree(root) for root in (first, second))
    for name in one.keys() | two.keys():
        if name.endswith(".safetensors"):
            tensors = [read_checkpoint(root / name).tensors for root in (first, second)]
            assert all(torch.equal(tensor, tensors[1][k]) for k, tensor in tensors[0].items())
        else:
            assert one[name] == two[name], name


def test_a_stopped_run_resumes_with_its_noise_ratio(
    corpora: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    corpus = [str(corpora["fixed"])]
    with pytest.raises(StoppedBySignal):
        fit(corpus, tmp_path, Killer("training", 2 * IMAGES, signal.SIGTERM), **WIENER)
    fit(corpus, tmp_path, **WIENER)
    assert tree(tmp_path) == tree(run)


def test_batches_do_not_depend_on_who_reads(corpora: dict[str, Path]) -> None:
    both = [corpora["drawn"], corpora["mixed"]]
    settings: dict[str, Any] = {**WIENER, "crop": 16, "flip": True}
    first = seen("l1", both, range(3), **settings)
    for workers, cache in ((1, "off"), (0, "ram")):
        again = seen("l1", both, range(3), workers, cache, **settings)
        for one, other in zip(first, again, strict=True):
            assert torch.equal(one.input, other.input)
            assert torch.equal(one.target, other.target)


def test_a_row_without_a_blur_keeps_its_input(corpora: dict[str, Path]) -> None:
    settings = {**WIENER, "noise_ratio": 1e-3}
    images = open_pairs(small_config("l1", str(corpora["mixed"]), **settings), "train")
    assert images is not None
    changed = {}
    for index, (corpus, pair) in enumerate(images.pairs):
        stored, target = read_pair(corpus, pair)
        input, same = images.read(index)
        assert np.array_equal(same, target)
        branch = pair.row["drawn"]["branch"]
        changed.setdefault(branch, []).append(not np.array_equal(input, stored))
    assert not any(changed[0])
    assert all(changed[1])


def test_scores_and_translate_restore_alike(
    corpora: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    """A sigma of the command line is that of a row; an image without a blur takes 0."""
    corpus, model = open_corpus(corpora["fixed"]), load_generator(run, "cpu")
    pairs = corpus.pairs("test")
    (restored,) = restored_batches(model, corpus, pairs, Scoring())
    folder, out = tmp_path / "in", tmp_path / "out"
    for one in restored:
        write(folder / f"{one.pair.key}.png", one.input)
    argv = ["translate", str(run), str(folder), str(out), "--device", "cpu"]
    main([*argv, "--sigma", str(SIGMA)])
    function = api.load(run, "cpu")
    for one in restored:
        assert np.array_equal(io.read(out / f"{one.pair.key}.png").pixels, one.output)
        assert np.array_equal(function(one.input, sigma=SIGMA), one.output)
        plain = model.restore(one.input[None])[0]
        assert np.array_equal(function(one.input, sigma=0), plain)
        assert not np.array_equal(plain, one.output)


def test_validation_scores_as_evaluate_does(corpora: dict[str, Path], run: Path) -> None:
    settings = EvaluateSettings(device="cpu", split="val")
    (one,) = evaluate_matrix([run], [corpora["fixed"]], settings).evaluations
    best = max(row["psnr"] for row in read_log(run) if row["kind"] == "validation")
    assert one.scores["psnr"] == pytest.approx(best, abs=1e-3)


def test_results_name_the_transform(corpora: dict[str, Path], run: Path) -> None:
    chosen = [corpora["fixed"], corpora["sharp"]]
    known, unknown = evaluate_matrix([run], chosen, EvaluateSettings(device="cpu")).evaluations
    assert known.summary()["test_time"]["input"] == "wiener"
    assert not any("states no blur" in note for note in known.notes)
    assert any("states no blur" in note for note in unknown.notes)


def test_a_start_from_a_run_with_another_input_is_noted(
    corpora: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    trainer = small_training("l2", corpora["fixed"], tmp_path)
    source = read_checkpoint(RunFolder(run).latest)
    line = trainer.state.initialize(source, trainer.config)
    assert line.endswith("generator, trained with --input wiener")


def test_a_dataset_takes_the_noise_ratio_of_a_run(corpora: dict[str, Path], run: Path) -> None:
    ratio = RunConfig.load(run).noise_ratio
    dataset = PairDataset(corpora["fixed"], input="wiener", noise_ratio=ratio)
    plain = PairDataset(corpora["fixed"])
    assert not torch.equal(dataset[0][0], plain[0][0])
    with pytest.raises(UsageError, match="needs a noise_ratio"):
        PairDataset(corpora["fixed"], input="wiener")


WRONG: Final = {
    "{sharp} --input wiener": "states no blur in its rows",
    "{drawn} --input wiener --degrade gaussian": "img2img-data degrade",
    "{drawn} --input wiener --direction BtoA": "--direction BtoA",
    "{drawn} --input wiener --loss cyclegan": "--loss cyclegan",
    "{drawn} --noise-ratio 0.1": "needs --input wiener",
    "translate {run} {sharp}/test/input {out}": "option '--sigma': is missing",
    "translate {plain} {sharp}/test/input {out} --sigma 3": "option '--sigma': ",
    "serve {run}": "translate --sigma",
    "export {run} {out}.html": "as .onnx or .safetensors",
    "export {run} {out}.pth": "as .onnx or .safetensors",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_cannot_be_is_one_line(
    command: str,
    corpora: dict[str, Path],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    places = {"run": run, "plain": tmp_path / "plain", "out": out, **corpora}
    if "{plain}" in command:
        fit([str(corpora["drawn"])], places["plain"], epochs=1)
        capsys.readouterr()
    argv = command.format(**places).split()
    argv += ["--out", str(out)] if argv[0].startswith("/") else []
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert WRONG[command] in text
    assert not out.exists()

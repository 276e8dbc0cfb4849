"""Checkpoints and run folders: format versions, damage, and numbers out of range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos
from fake_models import write_run
from small_corpus import write_corpus

pytest.importorskip("torch")

from img2img_data.core.errors import CheckpointError, UsageError
from img2img_train.cli.main import main
from img2img_train.config import RUN_FORMAT, RunConfig, all_fields, config_of, fields_of
from img2img_train.networks.specs import NetworkSpec
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.checkpoint import (
    FORMAT,
    TrainingProgress,
    read_checkpoint,
    read_description,
    write_checkpoint,
)
from img2img_train.runs.folder import RunFolder


def flipped(content: bytes, at: int) -> bytes:
    """The content of a file with one flipped bit in byte ``at``, another one for each byte."""
    changed = bytearray(content)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


def test_no_flipped_bit_of_a_checkpoint_is_believed(tmp_path: Path) -> None:
    path = RunFolder(write_run(tmp_path / "run")).best
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    # The digest and the numbers of the description are among them.
    for at in [*range(0, header, 11), *range(header, len(content), 999)]:
        path.write_bytes(flipped(content, at))
        with pytest.raises(CheckpointError) as rejected:
            read_description(path)
        assert str(rejected.value).startswith(f"checkpoint '{path}': "), at
        assert "\n" not in str(rejected.value)
        assert len(str(rejected.value)) < 400, at
    path.write_bytes(content)
    assert read_checkpoint(path).description.progress == TrainingProgress()


@pytest.mark.parametrize(
    "words",
    ["translate RUN PHOTOS OUT", "evaluate RUN --on CORPUS", "export RUN OUT.onnx", "serve RUN",
     "export RUN OUT.safetensors", "export RUN OUT.pth", "adopt FILE OUT"],
)  # fmt: skip
def test_every_command_rejects_a_changed_description(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(write_run(tmp_path / "run"))
    content = folder.best.read_bytes()
    folder.best.write_bytes(content.replace(b"unet", b"uneu", 1))
    places = {"RUN": folder.root, "FILE": folder.best, "PHOTOS": write_photos(tmp_path / "p", 1)}
    places |= {"CORPUS": write_corpus(tmp_path / "c", {"test": 1}), "OUT": tmp_path / "out"}
    for name, place in places.items():
        words = words.replace(name, str(place))
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert folder.best.name in lines[0]
    assert len(lines[0]) < 400
    assert not list(tmp_path.glob("out*"))


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    good = read_checkpoint(RunFolder(write_run(tmp_path / "run")).best)
    progress = good.description.progress.model_copy(update={"step": 77})
    later = good.description.model_copy(update={"progress": progress})
    for name, about in (("same", good.description), ("later", later)):
        write_checkpoint(tmp_path / name, good.tensors, about)
    same, other = (read_checkpoint(tmp_path / name).digest for name in ("same", "later"))
    assert len(good.digest) == 64
    assert (same == good.digest, other == good.digest) == (True, False)


@pytest.mark.parametrize(
    "changes",
    [
        *({"progress": {name: value}} for value in (10**30, -1)
          for name in ("step", "images", "logged_step", "stale_validations", "log_bytes")),
        {"progress": {"logged_step": 1}},
        {"progress": {"best_step": 1}},
        {"progress": {"best_psnr": 1e300}},
        {"progress": {"loss_sums": {"l2": 1.0}}},
        {"progress": {"loss_sums": {"l2": 1.0}, "loss_counts": {"l2": 0}}},
        {"size": (0, 32)},
        {"size": (10**30, 32)},
        {"generator": "other"},
        {"reverse_generator": "other"},
        {"networks": {}},
        {"networks": {"generator": NetworkSpec(name="patch-70")}},
    ],
    ids=str,
)  # fmt: skip
def test_a_number_out_of_range_is_rejected(changes: dict[str, Any], tmp_path: Path) -> None:
    path = RunFolder(write_run(tmp_path / "run")).best
    good = read_checkpoint(path)
    about = good.description
    if "progress" in changes:
        changes = {"progress": about.progress.model_copy(update=changes["progress"])}
    write_checkpoint(path, good.tensors, about.model_copy(update=changes))
    with pytest.raises(CheckpointError, match="describes an unknown model") as rejected:
        read_description(path)
    assert "\n" not in str(rejected.value)


NUMBERS = {
    name: next(loss for loss in OBJECTIVES if name in fields_of(loss))
    for name, field in all_fields().items()
    if field.annotation in (int, float, float | None)
}


@pytest.mark.parametrize(("name", "loss"), NUMBERS.items())
def test_every_number_of_a_configuration_has_bounds(name: str, loss: str) -> None:
    for value in (10**30, -1, "nan", "inf", "-inf"):
        with pytest.raises(UsageError, match=f"'--{name.replace('_', '-')}'"):
            config_of({"corpora": ["c"], "loss": loss, name: value})


@pytest.mark.parametrize("weight", ["0", "-1", "1e300", "nan", "inf"])
def test_the_weight_of_a_corpus_has_bounds(weight: str) -> None:
    with pytest.raises(UsageError, match="'--corpora'"):
        config_of({"corpora": [f"c={weight}"]})


def test_a_checkpoint_is_rejected_at_each_of_its_lengths(tmp_path: Path) -> None:
    path = RunFolder(write_run(tmp_path / "run")).best
    content = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 1000, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            read_description(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError):
        read_description(path)


def write_older(path: Path) -> None:
    """Rewrite a checkpoint as one of the format before."""
    good = read_checkpoint(path)
    about = good.description.model_copy(update={"format": FORMAT - 1})
    write_checkpoint(path, good.tensors, about)


def rename_digest(path: Path) -> None:
    """Rename the digest as in formats before 3, whose digest did not cover the description."""
    content = path.read_bytes().replace(b'"digest":', b'"sha256":', 1)
    path.write_bytes(content.replace(rb"\"format\": %d" % FORMAT, rb"\"format\": 1", 1))


@pytest.mark.parametrize("change", [write_older, rename_digest])
def test_a_checkpoint_of_an_older_version_is_rejected_in_one_line(
    change: Any, tmp_path: Path
) -> None:
    path = RunFolder(write_run(tmp_path / "run")).best
    change(path)
    for read in (read_checkpoint, read_description):
        with pytest.raises(CheckpointError) as rejected:
            read(path)
        assert str(rejected.value) == (
            f"checkpoint '{path}': was written by an older version of img2img-train; "
            "train it again with this version"
        )


def test_a_run_of_an_older_version_is_rejected_in_one_line(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run"))
    page = json.loads(folder.config.read_bytes())
    folder.config.write_text(json.dumps(page | {"format": RUN_FORMAT - 1}))
    with pytest.raises(CheckpointError) as rejected:
        RunConfig.load(folder.root)
    assert str(rejected.value) == (
        f"run '{folder.root}': was written by an older version of img2img-train; "
        "train it again with this version"
    )

"""Checkpoints and run folders: format versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_models import write_run

pytest.importorskip("torch")

from img2img_data.core.errors import CheckpointError
from img2img_train.config import RUN_FORMAT, RunConfig
from img2img_train.runs.checkpoint import FORMAT, read_checkpoint, read_description
from img2img_train.runs.folder import RunFolder


def test_a_checkpoint_of_an_older_version_is_rejected_in_one_line(tmp_path: Path) -> None:
    path = RunFolder(write_run(tmp_path / "run")).best
    path.write_bytes(
        path.read_bytes().replace(rb"\"format\": %d" % FORMAT, rb"\"format\": %d" % (FORMAT - 1))
    )
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

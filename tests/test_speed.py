"""What makes a run quick or exact changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_corpus import write_corpus
from small_runs import small_config

from img2img_train import loop
from img2img_train.config import RunConfig
from img2img_train.display import Display
from img2img_train.prepare import computing
from img2img_train.run import read_log


@pytest.mark.parametrize(
    ("asked", "device", "found"),
    [("auto", "cpu", True), ("auto", "mps", False), ("on", "mps", True), ("off", "cpu", False)],
)
def test_deterministic_is_what_was_asked_for_and_only_during_the_run(
    asked: str, device: str, found: bool
) -> None:
    config = RunConfig(corpora="x", deterministic=asked, threads=1)
    before = torch.are_deterministic_algorithms_enabled()
    with computing(config, torch.device(device)):
        assert torch.are_deterministic_algorithms_enabled() is found
    assert torch.are_deterministic_algorithms_enabled() is before


def test_yaml_reads_on_as_true() -> None:
    assert RunConfig(corpora="x", deterministic=True).deterministic == "on"
    assert RunConfig(corpora="x", deterministic=False).deterministic == "off"


def test_a_run_may_go_on_without_being_deterministic(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4}, size=(16, 16))
    for way in ("on", "off"):
        result = loop.fit(small_config("l2", corpus, tmp_path / "run", deterministic=way), Display())
    assert result.already
    assert len(read_log(tmp_path / "run")) == 2

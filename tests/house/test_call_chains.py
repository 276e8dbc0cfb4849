"""An image and a training step pass through few modules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from command_line import run
from serial_pool import work_in_this_process
from small_corpus import write_corpus
from small_runs import seen, small_training

from img2img_train.objectives.registry import OBJECTIVES

ROOT = Path(__file__).parents[2]
IMAGE_MODULES = 17
STEP_MODULES = 12
CARD = "corpus/card.py"  # written once, when all images are there


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def modules_entered(package: str, action: Callable[[], object]) -> set[str]:
    """Return the modules of a package whose functions run, but for imports and the card."""
    folder, found = f"{ROOT / package}/", set[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(folder) and name not in found:
            codes = [f.f_code for f in frames(frame) if f.f_code.co_filename.startswith(folder)]
            of_card = any(code.co_filename == folder + CARD for code in codes)
            if not of_card and all(code.co_name != "<module>" for code in codes):
                found.add(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return {name.removeprefix(folder) for name in found}


def test_an_image_passes_through_few_modules(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in_this_process(monkeypatch)

    def blur(out: str) -> str:
        return run("blur", photos, tmp_path / out, "--size", "32", "--jobs", "1")

    blur("first")  # imports and caches are not on the way of every image
    entered = modules_entered("img2img_data", lambda: blur("second"))
    assert "images/io.py" in entered, "the search for modules works"
    assert len(entered) <= IMAGE_MODULES, sorted(entered)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_training_step_passes_through_few_modules(loss: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 8}, size=(24, 24))
    trainer = small_training(loss, corpus, tmp_path / "run")
    first, second = seen(loss, corpus, range(2), net="unet")
    trainer.step(first)
    entered = modules_entered("img2img_train", lambda: trainer.step(second))
    assert "training/step.py" in entered, "the search for modules works"
    assert len(entered) <= STEP_MODULES, sorted(entered)

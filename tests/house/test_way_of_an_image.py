"""An image passes through few modules between the command and the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from command_line import run

ROOT = Path(__file__).parents[2]
MODULES = 19  # a step of an image that needs another module is a reason to look for one that can go


def frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def modules_entered(package: str, action: Callable[[], object]) -> set[str]:
    """Return the modules of a package whose functions run, except those that an import calls."""
    folder, found = f"{ROOT / package}/", set[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(folder) and name not in found:
            codes = [f.f_code for f in frames(frame) if f.f_code.co_filename.startswith(folder)]
            if all(code.co_name != "<module>" for code in codes):
                found.add(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return {name.removeprefix(folder) for name in found}


def test_an_image_passes_through_few_modules(photos: Path, tmp_path: Path) -> None:
    def blur(out: str) -> str:
        return run("blur", photos, tmp_path / out, "--size", "32", "--jobs", "1")

    blur("first")  # imports and caches are not on the way of every image
    entered = modules_entered("img2img_data", lambda: blur("second"))
    assert "images/io.py" in entered, "the search for modules works"
    assert len(entered) <= MODULES, sorted(entered)

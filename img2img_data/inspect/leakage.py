"""Is a image of one split, or nearly the same one, in another? Then scores on that split tell too much."""

from __future__ import annotations

import functools
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from img2img_data.core.errors import CorpusError, printable
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import METADATA_FILE, inside
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.runner.plan import ByteColumn
from img2img_data.runner.workers import LocalPool, default_jobs
from img2img_data.similarity.duplicates import EXACT, copies_within, leaks
from img2img_data.similarity.perceptual_hash import PrintFile, Prints, fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN: Final = 5
WHOLE, LEFT, RIGHT = range(3)


class Look(NamedTuple):
    """One image to look at: a file, or one half of it."""

    place: int
    path: Path
    half: int


@dataclass(slots=True)
class ImageList:
    """The images of a corpus that are compared with each other; train first, then by split and key."""

    side: str
    splits: tuple[str, ...]
    split_at: array[int] = field(default_factory=lambda: array("B"))
    keys: ByteColumn = field(default_factory=ByteColumn)
    names: ByteColumn = field(default_factory=ByteColumn)
    half: int = WHOLE

    def name(self, place: int) -> str:
        """Return the split and the key of a image."""
        return f"{self.splits[self.split_at[place]]}/{self.keys[place].decode()}"


@dataclass(frozen=True, slots=True)
class Leaks:
    """``found``: (image, detail) for each copy in an earlier split; ``notes``: what else was seen."""

    found: list[tuple[str, str]]
    notes: list[str]


def find_leaks(root: Path, distance: int, jobs: int, progress: Callable[[int, int], None]) -> Leaks:
    """Compare the images of each split with those of the others.

    Of pairs made from one source the target is looked at, of pairs from two sources both halves, each with
    its like; of unpaired corpora all images of both domains together. Each image is listed with its
    nearest copy in every earlier split (train, then by name). ``distance`` as in ``duplicates``. ``jobs`` 0:
    every core. Memory: names and 29 bytes a image. Raises ``CorpusError``.
    """
    import numpy as np

    opened = open_corpus(root, rows=False)
    sides = list(_sides_of(opened))
    leaked, notes = list[tuple[str, str]](), list[str]()
    total = sum(len(s.names) for s in sides)
    before = 0
    for side in sides:
        splits = np.array(side.split_at, np.uint8)
        with (
            tempfile.TemporaryDirectory() as folder,
            PrintFile(Path(folder) / "p", len(splits)) as file,
        ):
            for done in _look(opened, side, file, jobs):
                progress(before + done, total)
            prints = file.load()
            leaked += _name_leaks(side, prints, splits, distance)
            notes += _name_copies(side, prints, splits)
        before += len(splits)
    if not leaked:
        many = len(opened.splits) > 1
        notes.append(
            "no image is in two splits" if many else "one split: no other for a image to be in"
        )
    return Leaks(leaked, notes)


def _sides_of(opened: Corpus) -> Iterator[ImageList]:
    """Yield what is compared with its like: targets, inputs and targets, or all images of the domains."""
    if len(opened.splits) > 255:
        raise CorpusError("corpus", opened.root, "has more than 255 splits", "merge some")
    two = any("target_source" in row for _, row in _first_rows(opened))
    for side in ("input", "target") if two and opened.kind == "paired" else ("target",):
        combined = opened.kind == "paired" and opened.layout == "combined"
        half = (LEFT if side == "input" else RIGHT) if combined else WHOLE
        images = ImageList(side if two else "", opened.splits, half=half)
        for number, row in _rows(opened):
            split = opened.splits[number]
            name = row.get("file_name") or row.get(f"{side}_file_name")
            domain = f"{row['domain']}/" if "domain" in row else ""
            images.split_at.append(number)
            images.keys.append(f"{domain}{row.get('key', '')}".encode("utf-8", "backslashreplace"))
            path = inside(opened.root / split, name).relative_to(opened.root)
            images.names.append(str(path).encode("utf-8", "surrogatepass"))
        yield images


def _rows(opened: Corpus) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, split in enumerate(opened.splits):
        for row in iter_rows(opened.root / split / METADATA_FILE):
            yield number, row


def _first_rows(opened: Corpus) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in _rows(opened):
        yield number, row
        return


# ---------------------------------------------------------------------------------- fingerprints
def _look(opened: Corpus, side: ImageList, file: PrintFile, jobs: int) -> Iterator[int]:
    def look_at(place: int) -> Look:
        return Look(
            place, opened.root / side.names[place].decode("utf-8", "surrogatepass"), side.half
        )

    work = functools.partial(print_image, opened)
    pool = LocalPool(
        work, look_at, lambda look, _: (look.place, fingerprint(None)), jobs or default_jobs()
    )
    for done, (place, data) in enumerate(pool.run(range(len(side.names))), 1):
        file.put(place, data)
        yield done


def print_image(opened: Corpus, look: Look) -> tuple[int, bytes]:
    """Return the fingerprint of a image of a corpus, of Lab images that of L; none of unreadable ones."""
    try:
        pixels = opened.read_image(look.path)
    except CorpusError:
        return look.place, fingerprint(None)
    middle = pixels.shape[1] // 2
    if look.half != WHOLE and middle:
        pixels = pixels[:, :middle] if look.half == LEFT else pixels[:, middle:]
    return look.place, fingerprint(pixels[..., 0] if opened.color == "lab" else pixels[..., :3])


# --------------------------------------------------------------------------------------- findings
def _name_leaks(
    side: ImageList, prints: Prints, splits: NDArray[np.uint8], distance: int
) -> Iterator[tuple[str, str]]:
    for place, other, bits in leaks(prints, splits, distance):
        kind = "exact" if bits == EXACT else "near"
        half = f" ({side.side})" if side.side else ""
        how = f", {bits} of 64 bits differ" if bits != EXACT else ""
        yield side.name(place), f"{kind} copy of {printable(side.name(other))}{half}{how}"


def _name_copies(side: ImageList, prints: Prints, splits: NDArray[np.uint8]) -> Iterator[str]:
    copies = list(copies_within(prints, splits))
    if copies:
        shown = [
            f"{printable(side.name(a))} = {printable(side.name(b))}" for a, b in copies[:SHOWN]
        ]
        more = ", ..." if len(copies) > SHOWN else ""
        half = f" ({side.side})" if side.side else ""
        what = "copies" if len(copies) > 1 else "copy"
        yield f"{len(copies):,} exact {what} within a split{half}: {', '.join(shown)}{more}"

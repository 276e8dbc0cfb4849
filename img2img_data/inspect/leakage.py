"""Leakage: images of one split with a copy in another, which inflates scores."""

from __future__ import annotations

import functools
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from img2img_data.core.command_line import Progress, counter_of
from img2img_data.core.errors import CorpusError, printable
from img2img_data.corpus.reader import Corpus, iter_pairs, open_corpus
from img2img_data.inspect.verify import Problem
from img2img_data.runner.plan import ByteColumn
from img2img_data.runner.workers import LocalPool
from img2img_data.similarity.duplicates import EXACT, copies_across_splits
from img2img_data.similarity.perceptual_hash import FingerprintFile, Fingerprints, fingerprint

NumberedPath = tuple[int, Path]
NumberedRecord = tuple[int, bytes]


@dataclass(slots=True)
class ComparedImages:
    """Images that are compared with each other; train first, then by split and key."""

    side: str
    """input or target in the notes; "" if the other side is not compared."""
    half: str
    """left or right in the combined layout; "" for the whole image."""
    splits: tuple[str, ...]
    turns: int
    """8 to compare with mirrored and turned images too, else 1."""
    split_at: array[int] = field(default_factory=lambda: array("B"))
    keys: ByteColumn = field(default_factory=ByteColumn)
    files: ByteColumn = field(default_factory=ByteColumn)

    def name(self, place: int) -> str:
        """Return split and key of an image."""
        return f"{self.splits[self.split_at[place]]}/{self.keys[place].decode()}"


def find_leaks(
    root: Path, distance: int, jobs: int, progress: Progress, mirrored: bool = False
) -> tuple[list[Problem], list[str]]:
    """Compare the images of each split with those of the others; return copies and notes.

    Pairs from one source are compared by their targets, pairs from two sources by both halves, and
    unpaired corpora by all images of both domains together. Each image is listed with its nearest
    copy in every earlier split (train, val, test, then by name). ``distance``: largest number of
    differing bits, as in ``duplicates``. ``jobs`` 0: all cores. ``mirrored``: compare mirrored and
    turned images too. Memory: names and 37 bytes per image, or per each of 8 turns. Raises
    ``CorpusError``.
    """
    corpus = open_corpus(root, rows=False)
    sides = list(_compared(corpus, 8 if mirrored else 1))
    problems = list[Problem]()
    count = counter_of(progress, sum(len(images.files) for images in sides))
    for images in sides:
        with (
            tempfile.TemporaryDirectory() as folder,
            FingerprintFile(Path(folder) / "p", len(images.files) * images.turns) as file,
        ):
            for place, data in _fingerprints(corpus, images, jobs):
                file.write(place * images.turns, data)
                count()
            problems += _leaks(images, file.load(), distance)
    if problems:
        return problems, []
    several = len(corpus.splits) > 1
    return [], ["no image is in two splits" if several else "there is only one split"]


def _compared(corpus: Corpus, turns: int) -> Iterator[ComparedImages]:
    """Yield the images of each side: targets, inputs and targets, or the images of both domains."""
    if len(corpus.splits) > 255:  # their numbers are bytes
        raise CorpusError("corpus", corpus.root, "has more than 255 splits", "merge some")
    first = next(chain.from_iterable(iter_pairs(corpus, split) for split in corpus.splits), None)
    two_sources = corpus.kind == "paired" and first is not None and "target_source" in first.row
    combined = corpus.kind == "paired" and corpus.layout == "combined"
    for side in ("input", "target") if two_sources else ("target",):
        # The targets of one source are enough: its inputs are degraded copies of them.
        half = {"input": "left", "target": "right"}[side] if combined else ""
        images = ComparedImages(side if two_sources else "", half, corpus.splits, turns)
        for number, split in enumerate(corpus.splits):
            for pair in iter_pairs(corpus, split):
                path = (pair.input if side == "input" else pair.target).relative_to(corpus.root)
                domain = f"{pair.row['domain']}/" if "domain" in pair.row else ""
                images.split_at.append(number)
                images.keys.append(f"{domain}{pair.key}".encode("utf-8", "backslashreplace"))
                images.files.append(str(path).encode("utf-8", "surrogatepass"))
        yield images


# ---------------------------------------------------------------------------------- fingerprints
def _fingerprints(corpus: Corpus, images: ComparedImages, jobs: int) -> Iterator[NumberedRecord]:
    def path_at(place: int) -> NumberedPath:
        return place, corpus.root / images.files[place].decode("utf-8", "surrogatepass")

    def lost(task: NumberedPath, reason: str) -> NumberedRecord:
        return task[0], fingerprint(None) * images.turns

    work = functools.partial(fingerprint_image, corpus, images.half, images.turns)
    return LocalPool(work, path_at, lost, jobs).run(range(len(images.files)))


def fingerprint_image(corpus: Corpus, half: str, turns: int, task: NumberedPath) -> NumberedRecord:
    """Return the number and the fingerprints of an image, empty ones if it is unreadable.

    ``half``: left or right for one half of the image. Lab images are compared by L. The fingerprint
    of turn t is that of the image mirrored, if t is 4 or more, and then turned by t % 4 times 90
    degrees counterclockwise.
    """
    place, path = task
    try:
        pixels = corpus.read_image(path)
    except CorpusError:
        return place, fingerprint(None) * turns
    middle = pixels.shape[1] // 2
    if half and middle:
        pixels = pixels[:, :middle] if half == "left" else pixels[:, middle:]
    pixels = pixels[..., 0] if corpus.color == "lab" else pixels[..., :3]
    views = (np.rot90(pixels[:, ::-1] if turn > 3 else pixels, turn) for turn in range(turns))
    return place, b"".join(map(fingerprint, views))


# ---------------------------------------------------------------------------------------- results
def _leaks(images: ComparedImages, prints: Fingerprints, distance: int) -> Iterator[Problem]:
    splits = np.repeat(np.array(images.split_at, np.uint8), images.turns)
    side = f" ({images.side})" if images.side else ""
    for place, other, bits in copies_across_splits(prints, splits, distance, images.turns):
        at, turn = divmod(other, images.turns)
        change = ("mirrored " if turn > 3 else "") + ("turned " if turn % 4 else "")
        of = f"{change}copy of {printable(images.name(at))}{side}"
        detail = f"exact {of}" if bits == EXACT else f"near {of}, {bits} of 64 bits differ"
        yield "leak", images.name(place // images.turns), detail

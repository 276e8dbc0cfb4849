"""Do the two halves of each pair of a corpus lie on each other? Measured again from the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from img2img_data.core.errors import CorpusError
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.similarity.alignment import Shift, measure_shift


def misaligned_pairs(
    root: Path, max_shift: float, progress: Callable[[int, int], None]
) -> list[tuple[str, str, str]]:
    """Return (problem, pair, detail) for each pair that lies more than ``max_shift`` pixels apart.

    Pairs whose shift cannot be told, or that cannot be read, are passed over. ``CorpusError`` when the corpus
    is unpaired.
    """
    corpus = open_corpus(root)
    pairs = [pair for split in corpus.splits for pair in corpus.pairs(split)]
    found = []
    for done, pair in enumerate(pairs, 1):
        shift = _shift_of(corpus, pair)
        if shift and shift.believed and shift.length > max_shift:
            found.append(("misaligned", f"{pair.split}/{pair.key}", str(shift)))
        progress(done, len(pairs))
    return found


def _shift_of(corpus: Corpus, pair: Pair) -> Shift | None:
    try:
        first, second = corpus.read(pair)
    except CorpusError:
        return None
    if first.shape[:2] != second.shape[:2]:
        return None
    return measure_shift(first, second[..., 0] if corpus.color == "lab" else second)

"""What kind of pictures a run's corpora hold: colour, channels, bits; and what cannot be trained on."""

from __future__ import annotations

from dataclasses import replace

from img2img_data.core.errors import UsageError, printable
from img2img_data.corpus.format import Corpus, open_corpus
from img2img_train.config import RunConfig
from img2img_train.data.color import Planes


def planes_of(config: RunConfig) -> Planes:
    """Return what the samples of a run's corpora mean; UsageError, naming two, where they differ."""
    found = [
        (choice.path, _planes(open_corpus(choice.path, rows=False))) for choice in config.corpora
    ]
    path, planes = found[0]
    for other, theirs in found[1:]:
        if theirs != planes:
            why = f"holds {theirs.said or 'RGB to RGB'}, '{printable(path)}' {planes.said or 'RGB to RGB'}"
            raise UsageError("corpus", other, why, "train on corpora of one kind")
    if planes.colour == "lab":
        _check_lab(config, path)
    if config.direction == "BtoA":
        planes = replace(planes, channels=planes.channels[::-1])
    return planes


def _planes(corpus: Corpus) -> Planes:
    check_samples(corpus)
    if corpus.colour == "lab":
        return Planes("lab", (1, 2), corpus.bits)
    return Planes("rgb", (corpus.channels["input"], corpus.channels["target"]), corpus.bits)


def _check_lab(config: RunConfig, path: str) -> None:
    """Raise UsageError for what makes no sense between L and the colours to it."""
    if not config.objective.paired:
        why = f"holds L and ab, and {config.loss} wants two sides of one kind"
        raise UsageError("corpus", path, why, "choose a loss that needs pairs")
    if config.direction == "BtoA":
        why = "holds L and ab, and L is no riddle"
        raise UsageError("corpus", path, why, "leave --direction BtoA out")
    if config.degrade is not None:
        why = "holds Lab pictures, and degradations are defined on RGB"
        raise UsageError("corpus", path, why, "leave --degrade out, or train on RGB")


def check_samples(corpus: Corpus) -> None:
    """Raise UsageError for a corpus with transparent pictures."""
    if 4 in corpus.channels.values():
        why = "holds transparent pictures, and models take RGB"
        raise UsageError("corpus", corpus.root, why, "build it with --channels rgb")

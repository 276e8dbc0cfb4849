"""What kind of images a run's corpora hold: color, channels, bits; and what cannot be trained on."""

from __future__ import annotations

from dataclasses import replace

from img2img_data.core.errors import UsageError, printable
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_train.config import RunConfig
from img2img_train.data.color import ChannelLayout


def channel_layout_of(config: RunConfig) -> ChannelLayout:
    """Return what the samples of a run's corpora mean; UsageError, naming two, where they differ."""
    found = [
        (choice.path, _planes(open_corpus(choice.path, rows=False))) for choice in config.corpora
    ]
    path, channel_layout = found[0]
    for other, theirs in found[1:]:
        if theirs != channel_layout:
            why = f"holds {theirs.label or 'RGB to RGB'}, '{printable(path)}' {channel_layout.label or 'RGB to RGB'}"
            raise UsageError("corpus", other, why, "train on corpora of one kind")
    if channel_layout.color == "lab":
        _check_lab(config, path)
    if config.direction == "BtoA":
        channel_layout = replace(channel_layout, channels=channel_layout.channels[::-1])
    return channel_layout


def _planes(corpus: Corpus) -> ChannelLayout:
    check_no_alpha(corpus)
    if corpus.color == "lab":
        return ChannelLayout("lab", (1, 2), corpus.bits)
    return ChannelLayout("rgb", (corpus.channels["input"], corpus.channels["target"]), corpus.bits)


def _check_lab(config: RunConfig, path: str) -> None:
    """Raise UsageError for what makes no sense between L and the colors to it."""
    if not config.objective.paired:
        why = f"holds L and ab, and {config.loss} wants two sides of one kind"
        raise UsageError("corpus", path, why, "choose a loss that needs pairs")
    if config.direction == "BtoA":
        why = "holds L and ab, and L is no riddle"
        raise UsageError("corpus", path, why, "leave --direction BtoA out")
    if config.degrade is not None:
        why = "holds Lab images, and degradations are defined on RGB"
        raise UsageError("corpus", path, why, "leave --degrade out, or train on RGB")


def check_no_alpha(corpus: Corpus) -> None:
    """Raise UsageError for a corpus with transparent images."""
    if 4 in corpus.channels.values():
        why = "holds transparent images, and models take RGB"
        raise UsageError("corpus", corpus.root, why, "build it with --channels rgb")

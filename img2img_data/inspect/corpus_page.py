"""One page that shows a corpus: its counts, what was rejected and why, and pairs under sliders.

The page is whole in itself: images, style and script are inside, it opens from a file and asks the network
for nothing.
"""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from img2img_data.core.errors import REASONS, UsageError, printable
from img2img_data.core.files import write_atomically, writing_to
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import REJECTED_FILE
from img2img_data.corpus.reader import Corpus, Pair, kept_of, open_corpus
from img2img_data.images import io
from img2img_data.inspect.histogram import Bars, Spread, Words, draw_spread, draw_words, number
from img2img_data.inspect.statistics import (
    Entry,
    Survey,
    check_split,
    flat,
    is_number,
    is_seed,
    short,
    survey_corpus,
    text_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

T = TypeVar("T")
"""Called with (done, total) now and then."""
Reading = Callable[[], None]
"""Called for each pair that was read."""

EXAMINED: Final = 1000
"""How many pairs are read to find the worst; of a larger corpus as many, drawn evenly."""
IMAGE_BYTES: Final = 4_500_000
FINENESS: Final = ((224, 85), (192, 78), (160, 70), (128, 60), (96, 50))
"""Longer side in pixels and WebP quality of the thumbnails; the first whose sum stays under IMAGE_BYTES."""
PROBED: Final = 24
FEW: Final = 12
"""A tag with so many values has a select; one with more is found by the search box."""
ORDERS: Final = 8


@dataclass(frozen=True, slots=True)
class Card:
    """What stands under one slider (or, unpaired, one image). ``why`` is worst, typical, A or B.

    ``picks`` are the values that the selects above ask for, by the select's number; ``numbers`` those that
    cards are ordered by; both as (number, value).
    """

    entry: Entry
    why: str
    difference: float = 0.0
    drawn: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    picks: tuple[tuple[int, str], ...] = ()
    numbers: tuple[tuple[int, float], ...] = ()
    images: tuple[str, ...] = ()
    width: int = 1
    height: int = 1

    @property
    def key(self) -> str:
        """The pair's key, safe to show."""
        return printable(self.entry.key)

    @property
    def source(self) -> str:
        """Where the pair comes from; a image of a bare folder, its file's name."""
        row, item = self.entry.row, self.entry.item
        return printable(
            str(row.get("source") or (item.name if isinstance(item, Path) else self.entry.key))
        )


def write_show(
    corpus: Path,
    out: Path | None = None,
    limit: int = 200,
    split: str = "",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write the contact sheet of a corpus and return its path, ``out`` or ``CORPUS/show.html``.

    Shows up to ``limit`` pairs, of one split or of all: the half with the largest difference between input
    and target, then others taken evenly through the rest. Of a large corpus a sample of ``EXAMINED`` pairs
    is read, another one for another ``seed``; counts and histograms are those of all rows. Raises
    CorpusError when the folder is no corpus or one of its images cannot be read.
    """
    opened = open_corpus(corpus, rows=False)
    page = out or opened.root / "show.html"
    with writing_to(page):
        taken = page.is_dir()
    if taken:
        raise UsageError("file", page, "is a folder", "name the page itself, as in page.html")
    splits = check_split(opened, split)
    examined, total = max(EXAMINED, limit), sum(kept_of(opened.info).values())
    survey, entries = survey_corpus(
        opened,
        splits,
        examined,
        seed,
        lambda done: progress(done, max(done, total) + examined + limit),
    )
    rows = survey.counts.total()
    compared = len(entries) if opened.kind == "paired" else 0
    total, done = rows + compared + min(limit, len(entries)), itertools.count(rows + 1)

    def reading() -> None:
        progress(next(done), total)

    if opened.kind == "paired":
        cards, how = _paired_cards(opened, entries, rows, limit, reading)
    else:
        cards, how = _domain_cards(entries, limit)
    controls = _controls(survey, cards)
    text = _render(
        "show.html",
        name=printable(opened.root.resolve().name),
        kind=opened.kind,
        layout=opened.layout,
        color=_samples_of(opened),
        tiles=list(_tiles(opened, splits, survey)),
        reasons=_reasons(survey),
        cards=_with_images(opened, [_filled(card, controls) for card in cards], reading),
        controls=controls,
        charts=_charts(survey),
        shown_how=how,
        recipe=json.dumps(dict(opened.info), indent=2, ensure_ascii=False) if opened.info else "",
    )
    with writing_to(page):
        write_atomically(page, text.encode("utf-8", "backslashreplace"))
    return page


# ------------------------------------------------------------------------------ what all rows say
def _samples_of(corpus: Corpus) -> str:
    """Return what the samples are, and how deep where that is unusual."""
    color = {1: "gray", 4: "rgba"}.get(corpus.channels["target"], corpus.color)
    return color if corpus.bits == 8 else f"{color} · {corpus.bits} bit"


def _tiles(corpus: Corpus, splits: Sequence[str], survey: Survey) -> Iterator[tuple[str, str, str]]:
    for split in splits:
        if corpus.kind == "paired":
            yield split, f"{survey.counts[split, '']:,}", "pairs"
        else:
            a, b = (survey.counts[split, domain] for domain in "AB")
            yield split, f"{a:,} + {b:,}", "images of A and of B"
    if (corpus.root / REJECTED_FILE).is_file():
        yield "rejected", f"{survey.rejected.total():,}", f"listed in {REJECTED_FILE}"


def _reasons(survey: Survey) -> list[tuple[str, int, str]]:
    """Return (reason, images, meaning), the most frequent first."""
    ranked = sorted(survey.rejected.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, count, REASONS.get(reason, "")) for reason, count in ranked]


@dataclass(frozen=True, slots=True)
class Charts:
    """The histograms of one section, and what is the same for all pairs: (name, value)."""

    title: str
    bars: list[Bars]
    same: list[tuple[str, str]]


def _charts(survey: Survey) -> list[Charts]:
    sizes = {f"{name}, pixels": spread for name, spread in survey.sizes.items()}
    kinds = {"kind": survey.kinds} if len(survey.kinds.counts) > 1 else {}
    sections = (
        _section("Drawn parameters", survey.drawn, kinds | survey.drawn_words),
        _section("Measured values", survey.measured, {}),
        _section("Image sizes", sizes, {}),
        _section("Tags", {}, survey.tags),
    )
    return [section for section in sections if section.bars or section.same]


def _section(title: str, spreads: Mapping[str, Spread], words: Mapping[str, Words]) -> Charts:
    drawn = [draw_spread(name, spread) for name, spread in spreads.items()]
    drawn += [draw_words(name, counted) for name, counted in words.items()]
    same = [
        (name, number(spread.low)) for name, spread in spreads.items() if spread.low == spread.high
    ]
    same += [(name, next(iter(w.counts))) for name, w in words.items() if len(w.counts) == 1]
    return Charts(title, [bars for bars in drawn if bars], same)


# ------------------------------------------------------------------------------------ which cards
def _paired_cards(
    corpus: Corpus, entries: Sequence[Entry], total: int, limit: int, reading: Reading
) -> tuple[list[Card], str]:
    differences = []
    for entry in entries:
        differences.append((_difference(corpus, entry), entry))
        reading()
    ranked = sorted(differences, key=lambda d: (-d[0], d[1].split, d[1].key))
    half = (min(limit, len(ranked)) + 1) // 2
    worst, rest = ranked[:half], sorted(ranked[half:], key=lambda d: (d[1].split, d[1].key))
    typical = _evenly(rest, limit - half)
    cards = [Card(entry, "worst", difference) for difference, entry in worst]
    cards += [Card(entry, "typical", difference) for difference, entry in typical]
    of = (
        f"{len(entries):,} of {total:,} pairs, drawn evenly"
        if len(entries) < total
        else f"{total:,} pairs"
    )
    return cards, (
        f"Of {of}: the {len(worst)} whose input differs most from the target (mean absolute difference in "
        f"gray levels, 0 to 255), then {len(typical)} evenly through the rest. "
        "Drag across a image, or focus it and use the arrow keys."
    )


def _domain_cards(entries: Sequence[Entry], limit: int) -> tuple[list[Card], str]:
    sides = ([entry for entry in entries if entry.domain == domain] for domain in "AB")
    cards = [
        Card(entry, entry.domain) for side in sides for entry in _evenly(side, max(1, limit // 2))
    ]
    return cards, "Nothing pairs these images: both columns run evenly through their domain."


def _evenly(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


# --------------------------------------------------------------------------- filters, captions
@dataclass(frozen=True, slots=True)
class Controls:
    """What stands above the cards: selects (name, values), and the numbers that cards are ordered by."""

    selects: list[tuple[str, list[str]]]
    orders: list[str]


def _controls(survey: Survey, cards: Sequence[Card]) -> Controls:
    """Return a select for the split, the kind and each tag with few values, as far as the cards differ."""
    few = [
        name for name, words in survey.tags.items() if len(words.counts) <= FEW and not words.more
    ]
    selects = []
    for name in ("split", "kind", *(f"tag {name}" for name in few)):
        values = sorted({_facts(card)[name] for card in cards if name in _facts(card)})
        if len(values) > 1:
            selects.append((name, values))
    varied = {
        name: spread
        for name, spread in (survey.drawn | survey.measured).items()
        if spread.low < spread.high
    }
    return Controls(selects, list(varied)[:ORDERS])


def _facts(card: Card) -> dict[str, str]:
    """Return what a card can be chosen by; tags cannot be taken for the others."""
    entry = card.entry
    kind = {"kind": printable(str(entry.row["kind"]))} if entry.row.get("kind") else {}
    tags = {f"tag {name}": text_of(value) for name, value in flat(entry.row.get("tags"))}
    return {"split": entry.split, **kind, **tags}


def _filled(card: Card, controls: Controls) -> Card:
    row, facts = card.entry.row, _facts(card)
    several = any(name == "kind" for name, _ in controls.selects)
    kind = (("kind", facts["kind"]),) if several and "kind" in facts else ()
    values = [pair for pair in flat(row.get("drawn")) if not is_seed(pair[0])]
    values += flat(row.get("measured"))
    numbers = {name: float(value) for name, value in values if is_number(value)}
    return replace(
        card,
        drawn=(*kind, *((short(name), text_of(value)) for name, value in values)),
        tags=tuple((name, text_of(value)) for name, value in flat(row.get("tags"))),
        picks=tuple(
            (n, facts[name]) for n, (name, _) in enumerate(controls.selects) if name in facts
        ),
        numbers=tuple(
            (n, numbers[name]) for n, name in enumerate(controls.orders) if name in numbers
        ),
    )


# ------------------------------------------------------------------------------------------- images
def _difference(corpus: Corpus, entry: Entry) -> float:
    """Return the mean absolute difference of input and target in gray levels, rounded so ties stay ties."""
    import cv2
    import numpy as np

    first, second = _pixels(corpus, entry)
    if first.shape != second.shape:
        first = np.asarray(
            cv2.resize(first, second.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8
        )
    return round(float(cv2.norm(first, second, cv2.NORM_L1)) / first.size, 4)


def _pixels(corpus: Corpus, entry: Entry) -> tuple[Pixels, ...]:
    """Return input and target of a pair, or the one image of a domain, as 8-bit RGB."""
    item = entry.open(corpus)
    if isinstance(item, Pair):
        first, second = corpus.read(item)
        second = io.lab_to_rgb(second) if corpus.color == "lab" else second
        return io.to_uint8_rgb(first), io.to_uint8_rgb(second)
    return (io.to_uint8_rgb(corpus.read_image(item)),)


def _with_images(corpus: Corpus, cards: Sequence[Card], reading: Reading) -> list[Card]:
    """Fill in the thumbnails, as fine as keeps the page small: a few tell about how fine that is."""
    some = _evenly(cards, PROBED)
    for side, quality in FINENESS:
        probe = sum(_bytes_of(_with_thumbnails(corpus, card, side, quality)) for card in some)
        if probe * len(cards) <= IMAGE_BYTES * max(1, len(some)):
            break
    filled = []
    for card in cards:
        filled.append(_with_thumbnails(corpus, card, side, quality))
        reading()
    return filled


def _bytes_of(card: Card) -> int:
    return sum(len(image) for image in card.images)


def _with_thumbnails(corpus: Corpus, card: Card, side: int, quality: int) -> Card:
    import cv2
    import numpy as np

    images = _pixels(corpus, card.entry)
    height, width = images[-1].shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if any(image.shape[1::-1] != size for image in images):
        images = tuple(
            np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in images
        )
    uris = tuple(_data_uri(io.encode(image, "webp", quality)) for image in images)
    return replace(card, images=uris, width=size[0], height=size[1])


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + b64encode(webp).decode()


def _render(template: str, **content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("img2img_data.inspect"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    return environment.get_template(template).render(**content)

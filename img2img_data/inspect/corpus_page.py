"""One page about a corpus: its counts, its rejected images, and pairs under sliders.

The page is self-contained: images, style and script are inside, and it makes no network request.
"""

from __future__ import annotations

import itertools
import json
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import cv2

from img2img_data.builds.pairs import BuildSettings
from img2img_data.core.command_line import Progress, shell_line
from img2img_data.core.errors import REASONS, UsageError, printable
from img2img_data.core.files import write_atomically, writing_to
from img2img_data.core.settings_model import help_of
from img2img_data.corpus.format import CORPUS_FILE, REJECTED_FILE, SOURCE_ENTRIES
from img2img_data.corpus.reader import Corpus, Pair, no_split, open_corpus
from img2img_data.corpus.view import rgb_of, thumbnails
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.inspect import statistics

T = TypeVar("T")

MAX_READ: Final = 1000
"""Pairs that are read to find those with the largest difference; of a larger corpus a sample."""
IMAGE_BYTES: Final = 4_500_000
THUMBNAILS: Final = ((512, 90), (320, 88), (224, 85), (192, 78), (160, 70), (128, 60), (96, 50))
"""Longer side in pixels and WebP quality; the first whose sum stays below IMAGE_BYTES is used."""
PROBED: Final = 24
FEW_VALUES: Final = 12
"""Tags with at most this many values get a select; others are found by the search box."""
MAX_ORDERS: Final = 8
SECTIONS: Final = {
    "drawn": "Drawn parameters",
    "measured": "Measured values",
    "sizes": "Image sizes",
    "tags": "Tags",
}


class Card(NamedTuple):
    """A pair (or, unpaired, an image) to show. ``group`` is worst, typical, A or B."""

    pair: Pair
    group: str
    difference: float = 0.0


class Controls(NamedTuple):
    """Controls above the cards: selects (name, values), and the numbers that order the cards."""

    selects: list[tuple[str, list[str]]]
    orders: list[str]


def write_corpus_page(
    corpus: Path,
    out: Path | None = None,
    limit: int = 200,
    split: str = "",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write the page of a corpus and return its path, ``out`` or ``CORPUS/show.html``.

    Shows up to ``limit`` pairs of one split or of all: half are those with the largest difference
    between input and target, the others are taken evenly from the rest. Of a large corpus a sample
    of ``MAX_READ`` pairs is read, which depends on ``seed``; counts and histograms cover all rows.
    Raises ``CorpusError`` if the folder is not a corpus or an image of it cannot be read.
    """
    opened = open_corpus(corpus, rows=False)
    page = out or opened.root / "show.html"
    # Checked first, because reading the images may take minutes.
    with writing_to(page):
        if page.is_dir():
            raise UsageError("file", page, "is a folder", "name a file, such as page.html")
    if split and split not in opened.splits:
        raise no_split(opened, split)
    splits = (split,) if split else opened.splits
    size, stated = max(MAX_READ, limit), sum(opened.kept.values())
    reading = partial(progress, 0, min(stated, size))
    found, pairs = statistics.count_corpus(opened, splits, size, seed, reading)
    # An image is read for its difference, for its thumbnail, or for both: it counts once.
    paired = opened.kind == "paired"
    steps = len(pairs) * paired + min(limit, len(pairs))
    done = itertools.count(1)

    def counted(items: Sequence[T]) -> Iterator[T]:
        for item in items:
            yield item
            progress(next(done) * len(pairs) // steps, len(pairs))

    cards = _paired_cards(opened, counted(pairs), limit) if paired else _domain_cards(pairs, limit)
    controls, (side, quality) = _controls(found, cards), _fineness(opened, cards)
    written = (opened.root / CORPUS_FILE).stat().st_mtime if opened.info else 0
    text = _render(
        name=printable(opened.root.resolve().name),
        corpus=opened,
        splits=splits,
        found=found,
        sampled=len(pairs),
        rejected_file=REJECTED_FILE if (opened.root / REJECTED_FILE).is_file() else "",
        cards=[
            _card_texts(card, controls) | thumbnails(opened, card.pair, side, "webp", quality)
            for card in counted(cards)
        ],
        controls=controls,
        sections=list(_sections(found)),
        built=time.strftime("%Y-%m-%d", time.localtime(written)),
        page=json.dumps(dict(opened.info), indent=2, ensure_ascii=False) if opened.info else "",
    )
    # Names may hold lone surrogates, which UTF-8 cannot encode.
    with writing_to(page):
        write_atomically(page, text.encode("utf-8", "backslashreplace"))
    return page


def _sections(found: statistics.CorpusStatistics) -> Iterator[dict[str, Any]]:
    """Yield the histograms of each section, and the values that all rows share: (name, value)."""
    for section, title in SECTIONS.items():
        numbers, words = found.numbers[section], found.words[section]
        drawn = [statistics.draw_numbers(*item) for item in numbers.items()]
        drawn += [statistics.draw_words(*item) for item in words.items()]
        charts = [chart for chart in drawn if chart]
        fixed = ((name, n.low) for name, n in numbers.items() if n.low == n.high)
        constants = [(name, statistics.number_text(number)) for name, number in fixed]
        constants += [(n, max(w)) for n, w in words.items() if len(w) == 1 and n != "kind"]
        if charts or constants:
            yield {"title": title, "charts": charts, "constants": constants}


# ------------------------------------------------------------------------------------------ cards
def _paired_cards(corpus: Corpus, pairs: Iterable[Pair], limit: int) -> list[Card]:
    measured = ((_difference(corpus, pair), pair) for pair in pairs)
    ranked = sorted(measured, key=lambda m: (-m[0], m[1].split, m[1].key))
    half = (min(limit, len(ranked)) + 1) // 2
    rest = sorted(ranked[half:], key=lambda m: (m[1].split, m[1].key))
    worst = [Card(pair, "worst", difference) for difference, pair in ranked[:half]]
    return worst + [Card(pair, "typical", d) for d, pair in _evenly(rest, limit - half)]


def _domain_cards(pairs: Sequence[Pair], limit: int) -> list[Card]:
    counts = {"A": (limit + 1) // 2, "B": limit // 2}
    domains = {name: [pair for pair in pairs if pair.row.get("domain") == name] for name in "AB"}
    return [Card(pair, name) for name in domains for pair in _evenly(domains[name], counts[name])]


def _evenly(items: Sequence[T], count: int) -> Sequence[T]:
    if len(items) <= count:
        return items
    return [items[place * len(items) // count] for place in range(count)]


def _controls(found: statistics.CorpusStatistics, cards: Sequence[Card]) -> Controls:
    """Return a select for the split, the kind and each tag with few values, if it varies."""
    few = [name for name, words in found.words["tags"].items() if len(words) <= FEW_VALUES]
    facts, selects = [_facts(card.pair) for card in cards], []
    for name in ("split", "kind", *(f"tag {name}" for name in few)):
        values = sorted({fact[name] for fact in facts if name in fact})
        if len(values) > 1:
            selects.append((name, values))
    numbers = found.numbers["drawn"] | found.numbers["measured"]
    orders = [name for name, counted in numbers.items() if counted.low < counted.high]
    return Controls(selects, orders[:MAX_ORDERS])


def _facts(pair: Pair) -> dict[str, str]:
    """Return the values that selects choose by; the prefix keeps tags apart from the others."""
    tags = statistics.values_of(pair.row, "tags")
    facts = {f"tag {name}": statistics.text_of(value) for name, value in tags}
    if pair.row.get("kind"):
        facts["kind"] = printable(pair.row["kind"])
    return {"split": pair.split, **facts}


def _fineness(corpus: Corpus, cards: Sequence[Card]) -> tuple[int, int]:
    """Return side and quality of thumbnails as fine as keeps the page small."""
    # A few cards show how large the page gets; encoding all of them several times would be slow.
    some = _evenly(cards, PROBED)
    for side, quality in THUMBNAILS:
        probes = (thumbnails(corpus, card.pair, side, "webp", quality)["images"] for card in some)
        size = sum(map(len, itertools.chain.from_iterable(probes)))
        if size * len(cards) <= IMAGE_BYTES * len(some):
            break
    return side, quality


def _card_texts(card: Card, controls: Controls) -> dict[str, Any]:
    """Return the texts of a card. ``picks`` and ``numbers`` are (number of the control, value)."""
    row, facts = card.pair.row, _facts(card.pair)
    values = [*statistics.values_of(row, "drawn"), *statistics.values_of(row, "measured")]
    numbers = {name: float(value) for name, value in values if statistics.is_number(value)}
    drawn = [(".".join(name.split(".")[-2:]), statistics.text_of(value)) for name, value in values]
    selects = [name for name, _ in controls.selects]
    if "kind" in selects and "kind" in facts:
        drawn.insert(0, ("kind", facts["kind"]))
    names = dict.fromkeys(filter(None, map(row.get, ("source", "target_source"))))
    return card._asdict() | {
        "key": printable(card.pair.key),
        "source": printable(" | ".join(map(str, names)) or card.pair.key),
        "drawn": drawn,
        "tags": [(name, statistics.text_of(v)) for name, v in statistics.values_of(row, "tags")],
        "picks": [(n, facts[name]) for n, name in enumerate(selects) if name in facts],
        "numbers": [(n, numbers[x]) for n, x in enumerate(controls.orders) if x in numbers],
    }


# ----------------------------------------------------------------------------------------- images
def _difference(corpus: Corpus, pair: Pair) -> float:
    """Return the mean absolute difference of input and target in gray levels."""
    first, second = rgb_of(corpus, pair)
    resized = cv2.resize(first, second.shape[1::-1], interpolation=cv2.INTER_AREA)
    # Rounded, so that equal differences stay equal whatever the order of the summation.
    return round(float(cv2.norm(resized, second, cv2.NORM_L1)) / second.size, 4)


def _render(**content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("img2img_data.inspect"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    # The content security policy allows the one script with this digest, so injected ones cannot
    # run.
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    defaults = {name: field.default for name, field in BuildSettings.model_fields.items()}
    environment.globals |= {"meanings": REASONS, "defaults": defaults, "degradations": DEGRADATIONS}
    environment.globals["unstated"] = {"command", "pairing", "degradation", *SOURCE_ENTRIES}
    environment.filters |= {"shell": shell_line, "printable": printable}
    environment.filters["help"] = help_of
    return environment.get_template("show.html").render(**content)

"""One page that shows a corpus: its counts, what was refused and why, and pairs under sliders.

The page is whole in itself: pictures, style and script are inside, it opens from a file and asks the network
for nothing.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from img2img_data import images
from img2img_data.corpus import REJECTED_FILE, Corpus, Pair, open_corpus, read_rows, write_atomically
from img2img_data.errors import REASONS, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

T = TypeVar("T")

EXAMINED: Final = 1000
"""How many pairs are read to find the worst; of a larger corpus as many, evenly through its keys."""
PICTURE_BYTES: Final = 4_500_000
FINENESS: Final = ((224, 85), (192, 78), (160, 70), (128, 60))
"""Longer side in pixels and WebP quality of the thumbnails; the first whose sum stays under PICTURE_BYTES."""


@dataclass(frozen=True, slots=True)
class Card:
    """What stands under one slider (or, unpaired, one picture). ``why`` is worst, typical, A or B."""

    key: str
    split: str
    why: str
    item: Pair | Path
    source: str = ""
    drawn: tuple[tuple[str, str], ...] = ()
    difference: str = ""
    pictures: tuple[str, ...] = ()
    width: int = 1
    height: int = 1


def write_show(corpus: Path, out: Path | None = None, limit: int = 200) -> Path:
    """Write the contact sheet of a corpus and return its path, ``out`` or ``CORPUS/show.html``.

    Shows up to ``limit`` pairs: the half with the largest difference between input and target, then others
    taken evenly through the rest. Raises CorpusError when the folder is no corpus or one of its pictures
    cannot be read.
    """
    opened = open_corpus(corpus)
    page = out or opened.root / "show.html"
    if opened.kind == "paired":
        cards, how = _paired_cards(opened, limit)
    else:
        cards, how = _domain_cards(opened, limit)
    text = _render(
        "show.html",
        name=printable(opened.root.resolve().name),
        kind=opened.kind,
        layout=opened.layout,
        colour=opened.colour,
        tiles=list(_tiles(opened)),
        reasons=_reasons(opened),
        splits=opened.splits,
        cards=_with_pictures(opened, cards),
        shown_how=how,
        recipe=json.dumps(dict(opened.info), indent=2, ensure_ascii=False) if opened.info else "",
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, text.encode("utf-8", "backslashreplace"), page.with_name(f".{page.name}.tmp"))
    return page


def _tiles(corpus: Corpus) -> Iterator[tuple[str, str, str]]:
    for split in corpus.splits:
        if corpus.kind == "paired":
            yield split, f"{len(corpus.pairs(split)):,}", "pairs"
        else:
            a, b = corpus.domains[split]
            yield split, f"{len(a):,} + {len(b):,}", "pictures of A and of B"
    if (corpus.root / REJECTED_FILE).is_file():
        refused = sum(count for _, count, _ in _reasons(corpus))
        yield "refused", f"{refused:,}", f"listed in {REJECTED_FILE}"


def _reasons(corpus: Corpus) -> list[tuple[str, int, str]]:
    """Return (reason, pictures, meaning), the most frequent first."""
    path, counts = corpus.root / REJECTED_FILE, dict[str, int]()
    for row in read_rows(path) if path.is_file() else []:
        counts[str(row.get("reason"))] = counts.get(str(row.get("reason")), 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, count, REASONS.get(reason, "")) for reason, count in ranked]


def _paired_cards(corpus: Corpus, limit: int) -> tuple[list[Card], str]:
    pairs = [pair for split in corpus.splits for pair in corpus.pairs(split)]
    examined = _evenly(pairs, EXAMINED)
    ranked = sorted(
        ((_difference(corpus, p), p) for p in examined), key=lambda d: (-d[0], d[1].split, d[1].key)
    )
    half = (min(limit, len(ranked)) + 1) // 2
    worst, rest = ranked[:half], sorted(ranked[half:], key=lambda d: (d[1].split, d[1].key))
    typical = _evenly(rest, limit - half)
    cards = [_card(pair, "worst", difference) for difference, pair in worst]
    cards += [_card(pair, "typical", difference) for difference, pair in typical]
    of = (
        f"{len(pairs):,} pairs"
        if len(examined) == len(pairs)
        else f"{len(examined):,} pairs, evenly of {len(pairs):,}"
    )
    return cards, (
        f"Of {of}: the {len(worst)} whose input differs most from the target "
        "(mean absolute difference in grey levels, 0 to 255), "
        f"then {len(typical)} evenly through the rest."
    )


def _domain_cards(corpus: Corpus, limit: int) -> tuple[list[Card], str]:
    cards = []
    for side, domain in enumerate("AB"):
        files = [(split, path) for split in corpus.splits for path in corpus.domains[split][side]]
        cards += [_domain_card(s, p, domain) for s, p in _evenly(files, limit // 2)]
    return cards, "Nothing pairs these pictures: both columns run evenly through their domain."


def _domain_card(split: str, path: Path, domain: str) -> Card:
    return Card(printable(path.stem), split, domain, path, printable(path.name))


def _card(pair: Pair, why: str, difference: float) -> Card:
    row = pair.row
    kind = {"kind": row["kind"]} if row.get("kind") else {}
    drawn = tuple(_settings({**kind, **(row.get("drawn") or {})}))
    source = printable(str(row.get("source") or pair.key))
    return Card(printable(pair.key), pair.split, why, pair, source, drawn, f"{difference:.2f}")


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def _difference(corpus: Corpus, pair: Pair) -> float:
    """Return the mean absolute difference of input and target in grey levels, rounded so ties stay ties."""
    import cv2
    import numpy as np

    first, second = _pixels(corpus, pair)
    if first.shape != second.shape:
        first = np.asarray(cv2.resize(first, second.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return round(float(cv2.norm(first, second, cv2.NORM_L1)) / first.size, 4)


def _pixels(corpus: Corpus, item: Pair | Path) -> tuple[Pixels, ...]:
    """Return input and target of a pair, or the one picture of a domain, as 8-bit RGB."""
    if isinstance(item, Pair):
        first, second = corpus.read(item)
        second = images.lab_to_rgb(second) if corpus.colour == "lab" else second
        return images.to_uint8_rgb(first), images.to_uint8_rgb(second)
    return (images.to_uint8_rgb(corpus.read_picture(item)),)


def _with_pictures(corpus: Corpus, cards: Sequence[Card]) -> list[Card]:
    """Fill in the thumbnails, as fine as keeps the page small."""
    for side, quality in FINENESS:
        filled = [_with_thumbnails(corpus, card, side, quality) for card in cards]
        if sum(len(picture) for card in filled for picture in card.pictures) <= PICTURE_BYTES:
            break
    return filled


def _with_thumbnails(corpus: Corpus, card: Card, side: int, quality: int) -> Card:
    import cv2
    import numpy as np

    pictures = _pixels(corpus, card.item)
    height, width = pictures[-1].shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if any(picture.shape[1::-1] != size for picture in pictures):
        pictures = tuple(
            np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in pictures
        )
    uris = tuple(_data_uri(images.encode(picture, "webp", quality)) for picture in pictures)
    return replace(card, pictures=uris, width=size[0], height=size[1])


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + b64encode(webp).decode()


def _render(template: str, **content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("img2img_data"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    return environment.get_template(template).render(**content)

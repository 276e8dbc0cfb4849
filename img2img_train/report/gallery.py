"""The gallery of a page: input, output and target of each image, what they can be sorted and chosen by."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ALBUM_BYTES: Final = 3_300_000
"""Base64 characters of all images of an album."""
FINENESS: Final = ((224, 85), (192, 78), (160, 70), (128, 60), (96, 50))
"""Longer side in pixels and WebP quality of smaller images, where those that were saved are too large."""
PROBED: Final = 24
FEW: Final = 12
"""A fact with so many values has a select, where there are two cards a value."""

Card = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Album:
    """Cards, the worst first; ``selects`` are (name, values), ``orders`` are (value of the option, words).

    A card has ``picks``, its (number of the select, value), ``numbers``, its (number of the metric, score),
    and ``from``, where it comes from when there are several evaluations.
    """

    cards: Sequence[Card]
    selects: Sequence[tuple[str, Sequence[str]]]
    orders: Sequence[tuple[str, str]]
    metrics: Mapping[str, Mapping[str, Any]]
    total: int


def album_of(
    parts: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]], metrics: Mapping[str, Any]
) -> Album:
    """Return the album of some evaluations, each (where from, as in {"corpus": "c"}, and what was saved).

    Where all come from one place that is no choice. ``metrics`` are those of the protocol, by name.
    """
    varied = [
        name
        for name in (parts[0][0] if parts else ())
        if len({where[name] for where, _ in parts}) > 1
    ]
    found = [
        {
            **card,
            "where": {name: where[name] for name in varied},
            "facts": {**where, **card.get("facts", {})},
        }
        for where, saved in parts
        for card in saved["gallery"]
    ]
    found.sort(key=lambda card: (card["scores"]["psnr"], card["key"]))
    scored = {
        name: shape for name, shape in metrics.items() if all(name in c["scores"] for c in found)
    }
    selects = list(_selects(found))
    cards = [_filled(card, selects, list(scored)) for card in _fitted(found)]
    total = sum(saved["images"] for _, saved in parts)
    return Album(cards, selects, list(_orders(scored)), scored, total)


def _selects(cards: Sequence[Card]) -> Iterator[tuple[str, list[str]]]:
    """Yield each fact in which the cards differ, and its values."""
    for name in dict.fromkeys(name for card in cards for name in card["facts"]):
        values = sorted({card["facts"].get(name, "") for card in cards} - {""})
        if 1 < len(values) <= FEW and len(values) * 2 <= len(cards):
            yield name, values


def _orders(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield from (("place up", "worst PSNR first"), ("place down", "best PSNR first"))
    yield from (("gain up", "least gain first"), ("gain down", "most gain first"))
    for number, (name, shape) in enumerate(metrics.items()):
        if name != "psnr":
            yield (
                f"m{number} {'up' if shape['better'] == 'higher' else 'down'}",
                f"worst {shape['label']} first",
            )


def _filled(
    card: Card, selects: Sequence[tuple[str, Sequence[str]]], metrics: Sequence[str]
) -> Card:
    facts = card["facts"]
    return {
        **card,
        "picks": [(n, facts[name]) for n, (name, _) in enumerate(selects) if name in facts],
        "numbers": [(n, card["scores"][name]) for n, name in enumerate(metrics)],
        "gain": round(card["scores"]["psnr"] - card["nothing"]["psnr"], 6),
    }


# -------------------------------------------------------------------------------------------- bytes
def _fitted(cards: Sequence[Card]) -> Sequence[Card]:
    """Return the cards with images as fine as keeps the page small: a few tell about how fine that is."""
    if _bytes_of(cards) <= ALBUM_BYTES:
        return cards
    some = cards[:: max(1, len(cards) // PROBED)]
    for side, quality in FINENESS:
        if _bytes_of([_smaller(card, side, quality) for card in some]) * len(
            cards
        ) <= ALBUM_BYTES * len(some):
            break
    room, fitted = ALBUM_BYTES * 1.05, []
    for card in cards:
        fitted.append(_smaller(card, side, quality))
        room -= _bytes_of(fitted[-1:])
        if room < 0:
            return fitted[:-1]
    return fitted


def _bytes_of(cards: Sequence[Card]) -> int:
    return sum(len(webp) for card in cards for webp in card["webp"].values())


def _smaller(card: Card, side: int, quality: int) -> Card:
    import cv2
    import numpy as np

    from img2img_data.images import io

    scale = min(1.0, side / max(card["width"], card["height"]))
    size = max(1, round(card["width"] * scale)), max(1, round(card["height"] * scale))
    webp = {}
    for name, data in card["webp"].items():
        pixels = io.to_uint8_rgb(io.decode(b64decode(data)).pixels)
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        webp[name] = b64encode(io.encode(small, "webp", quality)).decode()
    return {**card, "webp": webp, "width": size[0], "height": size[1]}

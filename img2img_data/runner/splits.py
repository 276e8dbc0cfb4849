"""Groups and splits: what stays together, and where it goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import split_place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tags = Mapping[str, Any]

_PLAIN: Final = re.compile(r"[\w-]+")
FOLDER: Final = "folder"


def tag_in(rule: str | None) -> str | None:
    """Return the tag that a rule names, as in "tag:person" or "person"; None for "folder" and expressions.

    A plain word (letters of any script, digits, "_", "-") names a tag: as a regular expression it would match
    itself alone, so all images would be one group. "tag:" serves names that are no plain word.
    """
    if rule is None or rule == FOLDER:
        return None
    if rule.startswith("tag:"):
        return rule.removeprefix("tag:")
    return rule if _PLAIN.fullmatch(rule) else None


def group_of(path: bytes, tags: Tags, rule: str | None) -> bytes:
    """Return the group of a image: its folder, its tag, or what an expression finds in its file name.

    ``rule`` None, a missing tag (or None in it) and an expression that finds nothing make a image a group
    of its own, named by its path.
    """
    if rule is None:
        return path
    folder, _, name = path.rpartition(b"/")
    if rule == FOLDER:
        return folder
    tag = tag_in(rule)
    if tag is not None:
        return _text_of(tags.get(tag)).encode("utf-8", "surrogateescape") or path
    found = re.search(rule, name.decode("utf-8", "surrogateescape"))
    group = (found[1] if found.re.groups else found[0]) if found else None
    return group.encode("utf-8", "surrogateescape") if group else path


def stratum_of(path: bytes, tags: Tags, rule: str) -> str:
    """Return the stratum of a image: its folder, or its tag; "" where it has none."""
    if rule == FOLDER:
        return path.rpartition(b"/")[0].decode("utf-8", "surrogateescape")
    return _text_of(tags.get(tag_in(rule) or ""))


def _text_of(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def check_tag(rule: str | None, option: str, known: Iterable[str]) -> None:
    """Raise ``UsageError`` when the rule names a tag that no image has."""
    tag = tag_in(rule)
    known = set(known)
    if tag is None or tag in known:
        return
    if not known:
        hint = "tags come from a metadata.jsonl or metadata.csv beside the images, as wiki and select write"
        raise UsageError("option", f"{option} {rule}", "the images have no tags", hint)
    raise UsageError(
        "option", f"{option} {rule}", "no image has this tag", did_you_mean(tag, known)
    )


class Strata:
    """Gathers where each image belongs, then splits each stratum exactly.

    ``add`` is called once for each image; ``split`` returns the place of its split in the shares for each,
    in that order. Memory: 12 bytes a image, and some 100 more while splitting.

    Method: systematic sampling with a random start (Madow & Madow 1944, "On the theory of systematic
    sampling I"). The groups of a stratum, in the order of the hash that ``split_of`` uses, lie side by side
    on a circle, each as long as it has images; the shares are arcs of it, turned by a hash of the stratum's
    name. A group goes where its middle lies. So each split has its share of each stratum to within the
    stratum's largest group; to within one image without groups; and exactly where the share is a whole
    number of images. Small strata err in different directions, as the turn differs.

    A group in several strata counts in that with most of its images; when equal, in the first by name.
    """

    def __init__(self, seed: int) -> None:
        from array import array

        self._seed = seed
        self._places = array("Q")
        self._strata = array("i")
        self._names: dict[str, int] = {}

    def add(self, group: bytes, stratum: str) -> None:
        """Note the group and the stratum of the next image."""
        self._places.append(split_place(group, self._seed))
        self._strata.append(self._names.setdefault(stratum, len(self._names)))

    def split(self, shares: Iterable[float]) -> NDArray[np.uint8]:
        """Return for each image the place of its split among ``shares``, which sum to 1."""
        import numpy as np

        names = sorted(self._names)
        rank = np.empty(len(names), np.int64)
        rank[[self._names[n] for n in names]] = np.arange(len(names))
        _, group = np.unique(np.frombuffer(self._places, np.uint64), return_inverse=True)
        sizes = np.bincount(group)
        stratum = _majority(group, rank[np.frombuffer(self._strata, np.int32)], len(names))
        turns = np.array(
            [split_place(n.encode("utf-8", "surrogateescape"), self._seed) for n in names]
        )
        order = np.lexsort((np.arange(len(sizes)), stratum))
        ends = np.cumsum(sizes[order])
        totals = np.bincount(stratum, sizes, len(names))
        starts = np.concatenate(([0], np.cumsum(totals)[:-1]))
        of = stratum[order]
        middles = (ends - sizes[order] / 2 - starts[of]) / totals[of]
        spots = (middles + turns[of] / 2.0**64) % 1
        bounds = np.cumsum(list(shares))[:-1]
        splits = np.empty(len(sizes), np.uint8)
        splits[order] = np.searchsorted(bounds, spots, side="right")
        return splits[group]


def _majority(group: NDArray[Any], stratum: NDArray[Any], strata: int) -> NDArray[np.int64]:
    """Return for each group, numbered from 0, the stratum of most of its members; the lowest when equal."""
    import numpy as np

    both, counts = np.unique(group.astype(np.int64) * strata + stratum, return_counts=True)
    ranked = both[np.lexsort((both, -counts, both // strata))]
    _, first = np.unique(ranked // strata, return_index=True)
    return np.asarray(ranked[first] % strata, np.int64)

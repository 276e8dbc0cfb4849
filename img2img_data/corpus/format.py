"""The corpus on disk: names, rows, manifests. The one module that writes and reads the format.

::

    corpus.json                 what it is; written last, so it exists or the corpus is unfinished
    rejected.jsonl              one row per rejected image
    train/metadata.jsonl        one row per pair, sorted by key
    train/input/KEY.png         train/target/KEY.png           (layout "folders")
    train/KEY.png               input left, target right       (layout "combined")
    train/A/KEY.png             train/B/KEY.png                (kind "unpaired")

corpus.json states ``bits``, 8 or 16 a sample, and ``channels``, the number of ``input`` and of ``target`` (of
A and of B too): 1 gray, 3 RGB or Lab, 4 RGBA. All images of a corpus agree with it. Where it says nothing:
8 bit, and 3 channels, but 1 for the input of a Lab corpus.

The columns ``*_file_name`` follow the Hugging Face imagefolder convention, the combined layout the one of
pix2pix (https://github.com/phillipi/pix2pix).
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import unquote_to_bytes

from img2img_data.core.errors import CorpusError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT: Final = 2
CORPUS_FILE: Final = "corpus.json"
REJECTED_FILE: Final = "rejected.jsonl"
METADATA_FILE: Final = "metadata.jsonl"
EXTENSIONS: Final = {".png", ".jpg", ".jpeg", ".webp"}
"""What the images of a corpus end in."""

Kind = Literal["paired", "unpaired"]
Layout = Literal["folders", "combined"]
ColorSpace = Literal["rgb", "lab"]

_UNSAFE: Final = frozenset('<>:"/\\|?*%')
_RESERVED: Final = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        *(f"com{i}" for i in range(1, 10)),
        *(f"lpt{i}" for i in range(1, 10)),
    ]
)
_LONGEST_COMPONENT: Final = 160
_FREE: Final = rb"(?!(?i:con|prn|aux|nul|com\d|lpt\d)[./])"
_PLAIN: Final = re.compile(
    rb"(?:%b[A-Za-z0-9_-]{1,160}/)*%b[A-Za-z0-9_-]{1,150}\.[A-Za-z0-9]{1,9}" % (_FREE, _FREE)
)
"""Most paths are plain: for them a key is a slice. ``_safe`` gives the same, slowly; a test compares."""


# ------------------------------------------------------------------------------------------- keys
def key_of(path: bytes, extension: bool = False) -> str:
    """Return the key of a source: its relative path, safe on every file system.

    ``path`` uses "/" and may hold any bytes. Normal letters of every script stay; what a file system or a
    terminal could trip over is percent-encoded, so different paths keep different keys. The extension goes
    unless ``extension``.
    """
    if _PLAIN.fullmatch(path):
        return (path if extension else path[: path.rfind(b".")]).decode("ascii")
    *folders, name = path.split(b"/")
    if not extension:
        name = os.path.splitext(name)[0]
    return "/".join([*(_safe(f, folder=True) for f in folders), _safe(name)])


def _safe(component: bytes, folder: bool = False) -> str:
    text = component.decode("utf-8", "surrogateescape")
    if (
        text.isascii()
        and text.replace("_", "a").replace("-", "a").isalnum()
        and len(text) <= _LONGEST_COMPONENT
    ):
        return text if text.casefold() not in _RESERVED else _percent(text[0]) + text[1:]
    text = unicodedata.normalize("NFC", text)
    out = "".join(c if c.isprintable() and c not in _UNSAFE else _percent(c) for c in text)
    if out[:1] in {" ", "."} or out.partition(".")[0].casefold() in _RESERVED:
        out = _percent(out[0]) + out[1:]
    if out[-1:] in {" ", "."}:
        out = out[:-1] + _percent(out[-1])
    stem, dot = os.path.splitext(out)
    if folder and dot.casefold() in EXTENSIONS:
        out = stem + _percent(".") + dot[1:]
    if len(out.encode()) > _LONGEST_COMPONENT:
        out = f"{out.encode()[: _LONGEST_COMPONENT - 40].decode('utf-8', 'ignore')}~{digest(component).hex()}"
    return out


def _percent(character: str) -> str:
    return "".join(f"%{b:02X}" for b in character.encode("utf-8", "surrogateescape"))


def digest(*parts: bytes, size: int = 8) -> bytes:
    """Return ``size`` bytes of BLAKE2b over the parts, each preceded by its length."""
    h = blake2b(digest_size=size)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


def as_key(name: bytes) -> str:
    """Return the key under which a file may have been written, from its path without extension.

    Keys come back as they were, though other tools may have %-encoded more of them; any other name gets a key
    that is as safe as ``key_of`` makes one, but two names may get the same.
    """
    parts = [p for p in unquote_to_bytes(name).split(b"/") if p]
    return key_of((b"/".join(parts) or b"_") + b".x")


class Paths(Protocol):
    """Paths by number, as a list or something smaller holds them."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> bytes: ...


def key_in_form(path: bytes, form: int) -> str:
    """Return a key in its form: 0 as it is, 1 with the extension, 2 with a digest of the path too."""
    key = key_of(path, extension=form > 0)
    return key if form < 2 else key + "~" + digest(path).hex()


def key_forms(paths: Paths, start: int = 0, stop: int | None = None) -> bytes:
    """Return how the key of each path must be made (``key_in_form``) so that no two share one, a byte each.

    Keys are unique also where upper and lower case, or NFC and NFD, are one. Where two would collide the
    extension joins the key; where that does not help, a hash of the path's bytes. A path that comes twice
    does not collide with itself. Memory: 24 bytes a path meanwhile.
    """
    import numpy as np

    rows = range(start, len(paths) if stop is None else stop)
    keys = _hashes(_folded(key_of(paths[row])) for row in rows)
    there = np.sort(keys)
    forms = np.zeros(len(rows), np.uint8)
    at = np.flatnonzero(_among(keys, there[1:][there[1:] == there[:-1]]))
    if at.size:
        whose = _hashes(paths[rows[i]] for i in at)
        clashing = _shared(keys[at], whose)
        at, whose = at[clashing], whose[clashing]
        longer = _hashes(_folded(key_of(paths[rows[i]], extension=True)) for i in at)
        forms[at] = 1 + (_shared(longer, whose) | _among(longer, there))
    return forms.tobytes()


def _hashes(texts: Iterable[bytes]) -> NDArray[np.uint64]:
    import numpy as np

    buffer = bytearray()
    for text in texts:
        buffer += blake2b(text, digest_size=8).digest()
    return np.frombuffer(buffer, "<u8")


def _among(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which hashes are among ``known``, which is sorted."""
    import numpy as np

    if not known.size:
        return np.zeros(hashes.shape, np.bool_)
    at = np.searchsorted(known, hashes)
    return np.equal(known[np.minimum(at, known.size - 1)], hashes)


def _shared(hashes: NDArray[np.uint64], whose: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which hashes belong to more than one owner."""
    import numpy as np

    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    other = np.zeros(first.size, np.bool_)
    other[number[whose != whose[first][number]]] = True
    return other[number]


class UniqueKeys:
    """The keys of a set of paths, unique by ``key_forms``. Memory: that of the collisions alone."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        paths = list(paths)
        forms = key_forms(paths)
        self._forms = {path: form for path, form in zip(paths, forms, strict=True) if form}

    def __getitem__(self, path: bytes) -> str:
        return key_in_form(path, self._forms.get(path, 0))


def _folded(key: str) -> bytes:
    if key.isascii():
        return key.lower().encode()
    return unicodedata.normalize("NFC", key.casefold()).encode("utf-8", "replace")


# ------------------------------------------------------------------------------ randomness, splits
def image_rng(seed: int, name: bytes, epoch: int | None = None) -> np.random.Generator:
    """Return the generator of one image: it depends on seed, name and epoch, on nothing else.

    ``name`` is the source's relative path. Offline there is no epoch; online each epoch draws anew.
    """
    import numpy as np

    parts = [str(seed).encode(), name] + ([] if epoch is None else [str(epoch).encode()])
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest(*parts, size=16), "little")))


def split_place(group: bytes, seed: int) -> int:
    """Return where a group lies on the line of all groups: a hash of it and the seed, 0 to 2^64 - 1."""
    return int.from_bytes(digest(b"split", str(seed).encode(), group), "little")


def split_of(group: bytes, splits: Mapping[str, float], seed: int) -> str:
    """Return the split of a group: by a hash, so that adding images never moves old ones.

    ``splits`` maps names to shares that sum to 1.
    """
    if len(splits) == 1:
        return next(iter(splits))
    place = split_place(group, seed) / 2**64
    for name, share in splits.items():
        place -= share
        if place < 0:
            return name
    return name


# --------------------------------------------------------------------------------------- writing
def to_json_line(row: Mapping[str, Any]) -> bytes:
    """Return one line of a manifest: UTF-8, keys in the row's order, no NaN, newline at the end."""
    return (
        json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode()
        + b"\n"
    )


def to_json_page(content: Mapping[str, Any]) -> bytes:
    """Return ``content`` as indented JSON for a file that people read too."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def inside(folder: Path, name: object) -> Path:
    """Return ``folder/name``; a name that is none, absolute or climbs out is a ``CorpusError``."""
    parts = name.split("/") if isinstance(name, str) else [".."]
    if ".." in parts or "" in parts or ":" in parts[0] or "\\" in str(name):
        raise CorpusError(
            "corpus", folder, f"its manifest names a file outside of it: {name!r}", "do not use it"
        )
    return folder.joinpath(*parts)

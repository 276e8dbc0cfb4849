"""The corpus on disk: file names, keys, rows, splits and random streams.

::

    corpus.json                 what the corpus is; written last, so without it it is unfinished
    README.md                   dataset card
    rejected.jsonl              one row per rejected image
    train/metadata.jsonl        one row per pair, sorted by key
    train/datasets.jsonl        the same rows in columns of fixed types, for Hugging Face
    train/input/KEY.png         train/target/KEY.png           (layout "folders")
    train/KEY.png               input left, target right       (layout "combined")
    train/A/KEY.png             train/B/KEY.png                (kind "unpaired")

corpus.json states ``bits`` per sample, 8 or 16, and ``channels``, the numbers of channels of
``input`` and of ``target`` (of A and of B too): 1 gray, 3 RGB or Lab, 4 RGBA. All images of a
corpus agree with it. The defaults are 8 bits and 3 channels, but 1 channel for the input of a Lab
corpus.

The columns ``*_file_name`` follow the Hugging Face imagefolder convention, the combined layout
follows pix2pix (https://github.com/phillipi/pix2pix).
"""

from __future__ import annotations

import functools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError
from img2img_data.core.jsonl import NOT_IN_KEYS

FORMAT: Final = 2
"""Version of the names and columns on disk; readers reject any other."""
CORPUS_FILE: Final = "corpus.json"
REJECTED_FILE: Final = "rejected.jsonl"
METADATA_FILE: Final = "metadata.jsonl"
LINKED: Final = "is a link, and links within a corpus are not followed"
EXTENSIONS: Final = {".png", ".jpg", ".jpeg", ".webp"}
"""File name extensions of the images in a corpus."""

TILE_COLUMNS: Final = ("tile_left", "tile_top")
"""Columns of a tile's row: its place in the upright source, pixels."""

SOURCE_ENTRIES: Final = {"source_names": "the list of images", "source_tags": "tags of images"}
"""Entries of a recipe, digests of its sources, that may differ if a run goes on with those of
today; and what messages call them.
"""

Kind = Literal["paired", "unpaired"]
Layout = Literal["folders", "combined"]
ColorSpace = Literal["rgb", "lab"]

# Names that Windows reserves for devices, whatever the extension and the case.
_RESERVED: Final = r"(?:con|conin\$|conout\$|prn|aux|nul|(?:com|lpt)[1-9¹²³])"
_UNSAFE: Final = NOT_IN_KEYS | {"/", "%"}
# File systems allow 255 bytes; the rest is left for the extension and for temporary names.
_LONGEST_COMPONENT: Final = 160
_PLAIN: Final = rf"(?!{_RESERVED}[/.])[a-z0-9_-]{{1,{_LONGEST_COMPONENT}}}"
# Most paths are their keys already, and each is asked for three times.
_PLAIN_PATH: Final = re.compile(rf"((?:{_PLAIN}/)*{_PLAIN})\.[a-z0-9]+".encode(), re.IGNORECASE)


# ------------------------------------------------------------------------------------------- keys
def key_of(path: bytes, extension: bool = False) -> str:
    """Return the key of a source: its relative path, safe on every file system.

    ``path`` uses "/" and may hold any bytes. Letters of every script stay; characters that a file
    system or a terminal could mishandle are percent-encoded, so different paths keep different
    keys. The extension is dropped unless ``extension``.
    """
    if not extension and (plain := _PLAIN_PATH.fullmatch(path)):
        return plain[1].decode()
    *folders, name = path.split(b"/")
    name = name if extension else os.path.splitext(name)[0]
    # Components are made safe one by one: a name may be allowed as a file but not as a folder.
    return "/".join([*(_safe_component(f, folder=True) for f in folders), _safe_component(name)])


def _safe_component(component: bytes, folder: bool = False) -> str:
    text = component.decode("utf-8", "surrogateescape")
    # macOS stores names decomposed (NFD), other systems as they were typed: both get one key.
    text = unicodedata.normalize("NFC", text)
    out = "".join(c if c.isprintable() and c not in _UNSAFE else _percent(c) for c in text)
    if out[:1] in {" ", "."} or re.match(rf"{_RESERVED} *(\.|$)", out, re.IGNORECASE):
        out = _percent(out[0]) + out[1:]
    if out[-1:] in {" ", "."}:
        out = out[:-1] + _percent(out[-1])
    stem, dot = os.path.splitext(out)
    if folder and dot.casefold() in EXTENSIONS:
        # A folder "a.png" would collide with the image of the key "a".
        out = stem + _percent(".") + dot[1:]
    if len(out.encode()) > _LONGEST_COMPONENT:
        start = out.encode()[: _LONGEST_COMPONENT - 40].decode("utf-8", "ignore")
        out = f"{start}~{digest(component).hex()}"
    return out


def _percent(character: str) -> str:
    return "".join(f"%{b:02X}" for b in character.encode("utf-8", "surrogateescape"))


def digest(*parts: bytes, size: int = 8) -> bytes:
    """Return ``size`` bytes of BLAKE2b over the parts, each preceded by its length."""
    h = blake2b(digest_size=size)
    for part in parts:
        # Without the lengths ("ab", "c") and ("a", "bc") would have the same digest.
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


def hash64(*parts: bytes) -> int:
    """Return ``digest`` of the parts as an integer from 0 to 2^64 - 1."""
    return int.from_bytes(digest(*parts), "little")


def as_key(name: bytes) -> str:
    """Return the key under which a file may have been written, from its path without extension.

    Keys survive a round trip, even if another tool percent-encoded more characters. Any other name
    gets a safe key; two such names may get the same one.
    """
    parts = [p for p in unquote_to_bytes(name).split(b"/") if p]
    return key_of((b"/".join(parts) or b"_") + b".x")


class PathSequence(Protocol):
    """Paths by number: a list, or a more compact container."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> bytes: ...


def key_in_form(path: bytes, form: int) -> str:
    """Return a key in a form: 0 plain, 1 with the extension, 2 with a digest of the path too."""
    key = key_of(path, extension=form > 0)
    return key if form < 2 else key + "~" + digest(path).hex()


def key_forms(paths: PathSequence, start: int = 0) -> bytes:
    """Return the forms (see ``key_in_form``) that make the keys of paths unique, one byte each.

    Keys are unique even where upper and lower case, or NFC and NFD, are the same. On a collision
    the extension joins the key; if that does not help, a hash of the path's bytes joins too. A
    path that occurs twice does not collide with itself. Temporary memory: 24 bytes per path. The
    paths before ``start`` do not count.
    """
    rows = range(start, len(paths))
    keys = _hashes(folded(key_of(paths[row])) for row in rows)
    known = np.sort(keys)
    forms = np.zeros(len(rows), np.uint8)
    at = np.flatnonzero(_among(keys, known[1:][known[1:] == known[:-1]]))
    if at.size:
        owners = _hashes(paths[rows[i]] for i in at)
        clashing = _shared(keys[at], owners)
        at, owners = at[clashing], owners[clashing]
        longer = _hashes(folded(key_of(paths[rows[i]], extension=True)) for i in at)
        forms[at] = 1 + (_shared(longer, owners) | _among(longer, known))
    return forms.tobytes()


def _hashes(texts: Iterable[bytes]) -> NDArray[np.uint64]:
    buffer = bytearray()
    for text in texts:
        buffer += blake2b(text, digest_size=8).digest()
    return np.frombuffer(buffer, "<u8")


def _among(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return a mask of the hashes that are in ``known``, which is sorted."""
    if not known.size:
        return np.zeros(hashes.shape, np.bool_)
    # np.isin would sort both together, which takes several times the memory.
    at = np.searchsorted(known, hashes)
    return np.equal(known[np.minimum(at, known.size - 1)], hashes)


def _shared(hashes: NDArray[np.uint64], owners: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return a mask of the hashes that belong to more than one owner."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    shared = np.zeros(first.size, np.bool_)
    shared[number[owners != owners[first][number]]] = True
    return shared[number]


class UniqueKeys:
    """Keys of a set of paths, unique by ``key_forms``. Only the collisions stay in memory."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        paths = list(paths)
        forms = key_forms(paths)
        self._forms = {path: form for path, form in zip(paths, forms, strict=True) if form}

    def __getitem__(self, path: bytes) -> str:
        return key_in_form(path, self._forms.get(path, 0))


def folded(key: str) -> bytes:
    """Return the bytes that are equal for keys which differ in case or in Unicode form only."""
    return unicodedata.normalize("NFC", key.casefold()).encode("utf-8", "replace")


def is_run(folder: Path) -> bool:
    """Return True if the folder is a run of img2img-train."""
    # Other projects, and exported models, have a config.json too.
    return all((folder / name).is_file() for name in ("config.json", "timing.jsonl"))


# ------------------------------------------------------------------------------ randomness, splits
def image_rng(seed: int, name: bytes, epoch: int | None = None) -> np.random.Generator:
    """Return the random generator of an image, seeded by seed, name and epoch.

    ``name`` is the relative path of the source. Degradations on the fly pass ``epoch`` to draw new
    values in each epoch.
    """
    # The source's path seeds it, not the key: a key gains an extension if a second file needs it.
    # Images share no stream: the result must not depend on the number of workers, their order or a
    # resume.
    parts = [str(seed).encode(), name] + ([] if epoch is None else [str(epoch).encode()])
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest(*parts, size=16), "little")))


def stream_of(path: bytes, tile: Iterable[int] = ()) -> bytes:
    """Return the name of the random stream of a source, or of a tile of it."""
    return b"@".join([path, *(str(n).encode() for n in tile)])


def split_place(group: bytes, seed: int) -> int:
    """Return the position of a group, a hash of it and the seed, from 0 to 2^64 - 1."""
    return hash64(b"split", str(seed).encode(), group)


def in_split_order(names: Iterable[str]) -> list[str]:
    """Return names of splits, or of folders in splits: train, val, test, then the others by name.

    >>> in_split_order(["extra", "test", "train/B", "train/A", "val"])
    ['train/A', 'train/B', 'val', 'test', 'extra']
    """
    order = {"train": 0, "val": 1, "test": 2}
    return sorted(names, key=lambda name: (order.get(name.partition("/")[0], 3), name))


def split_of(group: bytes, splits: Mapping[str, float], seed: int) -> str:
    """Return the split of a group.

    A hash decides, not a count, so adding images never moves old ones. ``splits`` maps names to
    shares that sum to 1.
    """
    place = split_place(group, seed) / 2**64
    for name, share in splits.items():
        place -= share
        if place < 0:
            return name
    return name


# ------------------------------------------------------------------------------------------- rows
# ``json.dumps`` with options creates an encoder for each row.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def to_json_line(row: Mapping[str, Any]) -> bytes:
    """Return one line of a manifest: UTF-8, keys in the row's order, no NaN, newline at the end."""
    # An unpaired surrogate, as of a byte that is not UTF-8, stays the escape that JSON has for it.
    return _ENCODER.encode(row).encode("utf-8", "backslashreplace") + b"\n"


def to_json_page(content: Mapping[str, Any]) -> bytes:
    """Return ``content`` as indented JSON, for a file that people read too."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def columns_of(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row that name files."""
    return [c for c in row if c.endswith("file_name") and isinstance(row[c], str)]


def inside(folder: Path, name: object) -> Path:
    """Return ``folder/name``; raises ``CorpusError`` as ``text_inside`` does."""
    return Path(text_inside(folder, name))


def text_inside(folder: Path, name: object) -> str:
    """Return ``folder/name`` as text, which costs a third of a path.

    Raises ``CorpusError`` if ``name`` is not a relative path or leaves the folder, or if a folder
    on the way is a link. The folder itself may be one.
    """
    parts = name.split("/") if isinstance(name, str) else [".."]
    if ".." in parts or "" in parts or ":" in parts[0] or "\\" in str(name):
        why = f"its manifest names a file outside the corpus: {name!r}"
        raise CorpusError("corpus", folder, why, "do not use it")
    if link := first_link(folder, *parts[:-1]):
        raise CorpusError("folder", link, LINKED, "replace it with the folder itself")
    return f"{folder}/{name}"


@functools.lru_cache(maxsize=1024)
def first_link(folder: Path, *names: str) -> Path | None:
    """Return the first link among the folders of a path within a folder, None if there is none.

    Results are remembered, because the rows of a corpus name many files of few folders; opening a
    corpus clears them.
    """
    folders = accumulate(names, Path.__truediv__, initial=folder)
    # os.path: the method raises for a name that is too long for the file system.
    return next((p for p in islice(folders, 1, None) if os.path.islink(p)), None)  # noqa: PTH114

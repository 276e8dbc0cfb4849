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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import unquote_to_bytes

from img2img_data.core.errors import CorpusError, UsageError, printable
from img2img_data.core.jsonl import (
    iter_rows as iter_rows,
)  # here for those who come through this door
from img2img_data.core.jsonl import open_rows
from img2img_data.core.jsonl import read_rows as read_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT: Final = 1
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


class Keys:
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
def write_atomically(path: Path, data: bytes, temporary: Path, sync: bool = False) -> None:
    """Write ``data`` into ``temporary`` and rename it to ``path``: nobody ever sees half a file.

    ``UsageError`` where something else than a file has that name: a folder, a device.
    """
    if path.exists() and not path.is_file():
        raise UsageError("file", path, "is a folder, or no plain file", "give another name")
    with temporary.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def to_json_line(row: Mapping[str, Any]) -> bytes:
    """Return one line of a manifest: UTF-8, keys in the row's order, no NaN, newline at the end."""
    return (
        json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode()
        + b"\n"
    )


def to_json_page(content: Mapping[str, Any]) -> bytes:
    """Return ``content`` as indented JSON for a file that people read too."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


# --------------------------------------------------------------------------------------- reading
@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of a corpus; ``input`` and ``target`` are the same file in the combined layout."""

    key: str
    split: str
    input: Path
    target: Path
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus opened for reading. ``by_split`` maps each split to its pairs, sorted by key.

    Pairs are read from the manifest when they are asked for: a million take 8 MB. In an unpaired
    corpus ``domains`` holds, for each split, the images of A and of B instead.
    """

    root: Path
    kind: Kind
    layout: Layout
    color: ColorSpace
    info: Mapping[str, Any]
    by_split: Mapping[str, Sequence[Pair]]
    domains: Mapping[str, tuple[Sequence[Path], Sequence[Path]]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, train first."""
        names = self.domains if self.kind == "unpaired" else self.by_split
        return tuple(sorted(names, key=lambda s: (s != "train", s)))

    @property
    def bits(self) -> int:
        """Bits a sample, 8 or 16."""
        return bits_of(self.info)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of ``input`` and ``target`` on disk: 1, 3 or 4."""
        return channels_of(self.info)

    def pairs(self, split: str) -> Sequence[Pair]:
        """Return the pairs of a split, sorted by key; ``CorpusError`` names the splits there are."""
        if self.kind == "unpaired":
            raise CorpusError("corpus", self.root, "is unpaired", "use a paired one here")
        if split not in self.by_split:
            have = ", ".join(self.splits) or "none"
            raise CorpusError("corpus", self.root, f"has no split '{split}'", f"it has {have}")
        return self.by_split[split]

    def read(self, pair: Pair, exact: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return input and target, H x W x 3 RGB (Lab corpora: as stored), uint8, or uint16 where ``bits`` is
        16.

        A single channel is given three times; RGBA corpora give H x W x 4. Where nothing says that images
        are 16 bit, as in another tool's folder, such are read as 8 bit, or with ``exact`` are a
        ``CorpusError``.
        """
        first = self.read_image(pair.input, exact)
        if self.layout == "folders":
            return first, self.read_image(pair.target, exact)
        if first.shape[1] % 2:
            raise CorpusError(
                "image", pair.input, "has an odd width, so it is not A|B", "check the layout"
            )
        middle = first.shape[1] // 2
        return first[:, :middle], first[:, middle:]

    def read_image(self, path: Path, exact: bool = False) -> NDArray[Any]:
        """Return one image of the corpus, as ``read`` does."""
        return _read_image(path, self.bits, 4 in self.channels.values(), exact)


def _read_image(path: Path, bits: int, transparent: bool, exact: bool) -> NDArray[Any]:
    from img2img_data.core.errors import Rejected
    from img2img_data.images import io

    try:
        policy = io.ReadPolicy(
            depth=16 if bits == 16 else 8, channels="rgba" if transparent else "rgb"
        )
        image = io.read(path, policy)
    except Rejected as rejected:
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError(
            "image", path, why, "check the corpus with 'img2img-data verify'"
        ) from None
    if exact and "depth" in image.notes:
        why = "holds 16 bit, and nothing says that the corpus does"
        raise CorpusError(
            "image", path, why, "make a corpus of the folder with 'img2img-data import'"
        )
    return image.pixels


def open_corpus(root: Path | str, rows: bool = True) -> Corpus:
    """Open a corpus, or a folder in one of the ``layouts`` of other tools, for reading.

    Without ``rows`` the manifests stay unread: every split is there, but empty, however large it is.
    Raises ``CorpusError`` when the folder is missing, unfinished or none of these.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError("corpus", root, "no such folder", "check the path")
    if (root / CORPUS_FILE).is_file():
        return _open_manifest(root, rows)
    if (root / ".building").is_dir():
        raise CorpusError("corpus", root, "is unfinished", "run the command that builds it again")
    found = _open_layout(root)
    if found is None:
        what = "holds neither corpus.json nor images in a layout that is known"
        raise CorpusError("corpus", root, what, "see 'img2img-data import --help' for the layouts")
    return found


def read_info(root: Path) -> dict[str, Any]:
    """Return corpus.json; ``CorpusError`` when it is missing, damaged or of a later format."""
    path = root / CORPUS_FILE
    try:
        info = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        why = "has no corpus.json"
        raise CorpusError("corpus", root, why, "it is unfinished, or was not made here") from None
    except (OSError, ValueError, RecursionError):
        info = None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise CorpusError("corpus", path, "is damaged", "build the corpus again")
    if info["format"] > FORMAT:
        raise CorpusError(
            "corpus", path, f"has format {info['format']}, this program reads {FORMAT}", "update"
        )
    return info


def bits_of(info: Mapping[str, Any]) -> int:
    """Return the bits a sample that corpus.json states."""
    recipe = info.get("recipe")
    before = (
        recipe.get("bits") if isinstance(recipe, dict) else None
    )  # Lab corpora said it there alone once
    return 16 if info.get("bits", before) == 16 else 8


def channels_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Return the channels of input and target that corpus.json states."""
    stated = info.get("channels")
    known = stated if isinstance(stated, dict) else {}
    usual = {"input": 1 if info.get("color") == "lab" else 3, "target": 3}
    return {
        side: known[side] if known.get(side) in (1, 3, 4) else count
        for side, count in usual.items()
    }


def kept_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows corpus.json states of each split, as far as it does."""
    counts = info.get("counts")
    kept = counts.get("kept") if isinstance(counts, dict) else None
    return {s: n for s, n in kept.items() if isinstance(n, int)} if isinstance(kept, dict) else {}


def manifests_of(root: Path, info: Mapping[str, Any]) -> dict[str, Path]:
    """Return the manifest of each split; ``CorpusError`` when corpus.json has a split of which none is."""
    found = {path.parent.name: path for path in sorted(root.glob(f"*/{METADATA_FILE}"))}
    lost = sorted(split for split, count in kept_of(info).items() if count and split not in found)
    if lost:
        why = f"has lost the manifest of '{printable(lost[0])}'"
        raise CorpusError("corpus", root, why, "see 'img2img-data verify', or build it again")
    return found


def _open_manifest(root: Path, rows: bool) -> Corpus:
    info = read_info(root)
    kind, layout = info.get("kind", "paired"), info.get("layout", "folders")
    folders = [path.parent for path in manifests_of(root, info).values()]
    color = info.get("color", "rgb")
    if kind == "unpaired":
        domains = {f.name: _open_domains(f) if rows else ((), ()) for f in folders}
        return Corpus(root, "unpaired", layout, color, info, {}, domains)
    pairs = {f.name: _open_pairs(f) if rows else () for f in folders}
    return Corpus(root, "paired", layout, color, info, pairs)


def _open_pairs(folder: Path) -> Sequence[Pair]:
    make = {"": partial(pair_of, folder, folder.name)}
    return open_rows(folder / METADATA_FILE, make, lambda row: "")[""]


def _open_domains(folder: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    make = dict.fromkeys("AB", partial(_image_of, folder))
    found = open_rows(folder / METADATA_FILE, make, lambda row: str(row.get("domain")))
    return found["A"], found["B"]


def _image_of(folder: Path, row: Mapping[str, Any]) -> Path:
    return inside(folder, row.get("file_name"))


def pair_of(folder: Path, split: str, row: Mapping[str, Any]) -> Pair:
    """Return the pair of a row in the folder of its split."""
    both = row.get("file_name")
    names = (both, both) if both else (row.get("input_file_name"), row.get("target_file_name"))
    first, second = (inside(folder, n) for n in names)
    return Pair(str(row.get("key", "")), split, first, second, row)


def inside(folder: Path, name: object) -> Path:
    """Return ``folder/name``; a name that is none, absolute or climbs out is a ``CorpusError``."""
    parts = name.split("/") if isinstance(name, str) else [".."]
    if ".." in parts or "" in parts or ":" in parts[0] or "\\" in str(name):
        raise CorpusError(
            "corpus", folder, f"its manifest names a file outside of it: {name!r}", "do not use it"
        )
    return folder.joinpath(*parts)


def _open_layout(root: Path) -> Corpus | None:
    """Open a folder of another tool; ``CorpusError`` names the first file in it that cannot be used."""
    from img2img_data.corpus.layouts import LAYOUTS, find_layout

    name = find_layout(root)
    if name is None or name == "webdataset":
        return None
    layout = LAYOUTS[name]
    pairs: dict[str, list[Pair]] = {}
    domains: dict[str, tuple[list[Path], list[Path]]] = {}
    for entry in layout.entries(root):
        paths = [root.joinpath(*os.fsdecode(p).split("/")) for p in entry.sources]
        if entry.rejected:
            why = f"{entry.rejected[0]} {entry.rejected[1]}".strip()
            raise CorpusError(
                "image", paths[0], why, "'img2img-data import' lists what it cannot use"
            )
        if layout.kind == "unpaired":
            domains.setdefault(entry.split, ([], []))[entry.side].append(paths[0])
        else:
            pair = Pair(entry.key, entry.split, paths[0], paths[-1], {"tags": entry.tags})
            pairs.setdefault(entry.split, []).append(pair)
    for found in pairs.values():
        found.sort(key=lambda p: p.key)
    return Corpus(root, layout.kind, layout.layout, "rgb", {}, pairs, domains)

"""A model and pictures of any size, depth and kind to restored pictures, tile by tile.

What a picture has beside its colours is kept: transparency, 16 bits a sample, one channel, an embedded ICC
profile. EXIF orientation is applied, other metadata is not copied.

::

    OUT/FOLDERS/KEY.png     as in the source
    OUT/translated.jsonl    a row per picture that is done; a rerun of the same model passes over these
    OUT/rejected.jsonl      a row per picture that cannot be read
"""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting

from img2img_data import images
from img2img_data.corpus import REJECTED_FILE, Keys, to_json_line, write_atomically
from img2img_data.errors import CorpusError, Refused, UsageError, printable
from img2img_train.run import LoadedModel
from img2img_train.tiles import Tiling, restore

PICTURES: Final = frozenset(
    {b"jpg", b"jpeg", b"jpe", b"jfif", b"png", b"webp", b"bmp", b"gif", b"tif", b"tiff"}
)
"""What a file's name ends in to be taken for a picture in a folder; its content decides whether it is one."""

DONE_FILE: Final = "translated.jsonl"
STANDARD: Final = "-"
FORMATS: Final[dict[str, str]] = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}


class TranslateSettings(BaseModel):
    """How pictures are cut and written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: int = Setting(512, ge=16, description="side of a tile, pixels; memory grows with its square")
    overlap: int = Setting(
        128, ge=0, description="pixels that two tiles share: more for a network that sees further"
    )
    batch: int = Setting(1, ge=1, le=4096, description="tiles at a time")
    draws: int = Setting(
        1,
        ge=1,
        le=1000,
        description="results that are averaged, with dropout on; several also give NAME.spread.png, "
        "their standard deviation in 1/256 of a grey level",
    )
    format: Literal["png", "jpg", "webp"] = Setting(
        "png", description="format of the results; jpg and webp hold 8 bits and no transparency"
    )
    quality: int = Setting(95, ge=1, le=100, description="quality of jpg and webp; webp at 100 is lossless")
    max_pixels: int = Setting(400_000_000, ge=1, description="pixels a picture may have")

    def tiling(self, multiple: int, smallest: int) -> Tiling:
        """Return the tiling for a network that needs sides of this multiple, and at least so many pixels."""
        return Tiling(self.tile, self.overlap, multiple, self.batch, smallest)


@dataclass(slots=True)
class Translated:
    """How many pictures were restored, how many were there already, and why the others were not."""

    out: Path
    kept: int = 0
    already: int = 0
    refused: Counter[str] = field(default_factory=Counter)


# --------------------------------------------------------------------------------------- what there is
def list_pictures(source: Path) -> tuple[bytes, list[bytes]]:
    """Return a folder and the paths of its pictures relative to it, sorted.

    ``source`` is a folder, a file, or a pattern with ``*`` or ``?`` (``**`` for folders). Hidden files and
    folders are passed over, links to folders are not followed. UsageError where there is no picture.
    """
    if source.is_dir():
        root = os.fsencode(source)
        paths = sorted(_walk(root, b""))
    elif source.is_file() or source.is_symlink():
        root, paths = os.fsencode(source.parent), [os.fsencode(source.name)]
    elif glob.has_magic(str(source)):
        root, paths = _matching(str(source))
    else:
        raise UsageError("pictures", source, "no such file or folder", "check the path")
    if not paths:
        raise UsageError("pictures", source, "holds no pictures", "give a folder with .jpg, .png or the like")
    return root, paths


def is_one_file(source: Path, out: Path) -> bool:
    """Tell whether one picture is to become one: ``out`` is "-" or a picture's name, ``source`` a file."""
    return source.is_file() and (str(out) == STANDARD or (out.suffix.lower() in FORMATS and not out.is_dir()))


def _walk(root: bytes, below: bytes) -> Iterator[bytes]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = below + b"/" + entry.name if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif is_picture(entry.name):
                yield path


def _matching(pattern: str) -> tuple[bytes, list[bytes]]:
    """Return the folder before the first wildcard and what matches below it."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    found = glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True)
    files = [f for f in found if (root / f).is_file() and is_picture(os.fsencode(f))]
    return os.fsencode(root), sorted(os.fsencode(Path(f).as_posix()) for f in files)


def is_picture(name: bytes) -> bool:
    """Tell whether a name ends as those of pictures do."""
    return name.rpartition(b".")[2].lower() in PICTURES


# -------------------------------------------------------------------------------------------- one picture
class Made(NamedTuple):
    """The files of one restored picture: itself, and with several draws how far they spread (else empty)."""

    picture: bytes
    spread: bytes


def translate_bytes(model: LoadedModel, data: bytes, settings: TranslateSettings) -> Made:
    """Return a restored picture as a file from the file of one; Refused where it cannot be read.

    Of several draws the result is the mean; the spread is a 16-bit grey PNG of their standard deviation, mean
    over the channels, in 1/256 of an 8-bit grey level.
    """
    policy = images.ReadPolicy(depth="keep", channels="keep", max_pixels=settings.max_pixels, max_aspect=1e9)
    pixels = images.decode(data, policy).pixels
    made, deviation = _translate_pixels(model, pixels, settings)
    profile = images.icc_profile(data, 1 if made.ndim == 2 else 3)
    if settings.format != "png":
        made = images.to_8_bit(made) if made.dtype == np.uint16 else made
        made = made[..., :3] if made.ndim == 3 else made
    spread = b"" if deviation is None else images.encode(deviation, "png")
    file = images.encode(np.ascontiguousarray(made), settings.format, settings.quality, profile)
    return Made(file, spread)


def _translate_pixels(
    model: LoadedModel, pixels: images.Pixels, settings: TranslateSettings
) -> tuple[images.Pixels, images.Pixels | None]:
    """Restore the colours; alpha stays. And the spread of the draws.

    What was grey comes out grey, unless the model makes colours of it.
    """
    grey, alpha = pixels.ndim == 2, pixels.shape[2:] == (4,)
    colour = np.dstack([pixels] * 3) if grey else pixels[..., :3]
    tiling = settings.tiling(model.spec.multiple, model.spec.smallest)
    draws = (
        restore(partial(model.forward, draw=draw), colour, tiling, model.device)
        for draw in range(settings.draws)
    )
    made, deviation = _mean_and_spread(draws) if settings.draws > 1 else (next(draws), None)
    if model.spec.outputs == 1 or (grey and model.spec.inputs == model.spec.outputs):
        made = np.asarray(np.rint(made.mean(axis=2)), pixels.dtype)
    return np.dstack([made, pixels[..., 3]]) if alpha else made, deviation


def _mean_and_spread(draws: Iterator[images.Pixels]) -> tuple[images.Pixels, images.Pixels]:
    """Return the rounded mean, and the deviation in 1/256 of an 8-bit level; one draw is held at a time."""
    first = next(draws)
    total, squares, count = first.astype(np.float64), np.square(first, dtype=np.float64), 1
    for made in draws:
        total += made
        squares += np.square(made, dtype=np.float64)
        count += 1
    variance = np.maximum(squares / count - np.square(total / count), 0)
    level = np.iinfo(first.dtype).max / 255
    deviation = np.sqrt(variance).mean(axis=2) / level * 256
    return np.rint(total / count).astype(first.dtype), np.minimum(np.rint(deviation), 65535).astype(np.uint16)


# --------------------------------------------------------------------------------------------- a folder
def translate(
    model: LoadedModel,
    source: Path,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    settings: TranslateSettings | None = None,
) -> Translated:
    """Restore a picture, or all pictures of a folder or a pattern, into the same folders below ``out``.

    A picture that cannot be read is a row in ``out/rejected.jsonl``, as in a corpus. Equal inputs give equal
    bytes; what an earlier call with the same model and settings has finished is not done again. UsageError
    where the source holds no picture or ``out`` cannot be written.
    """
    settings = settings or TranslateSettings()
    if settings.draws > 1 and not model.config.test_dropout:
        raise UsageError("option", "--draws", "makes equal results without dropout", "give --dropout on")
    root, paths = list_pictures(source)
    keys, done, rejected = Keys(paths), Translated(out), []
    _make(out)
    with _Log.open(out, model, settings) as log:
        for number, path in enumerate(paths, 1):
            try:
                data = images.read_bytes(os.path.join(root, path))
                name = f"{keys[path]}.{settings.format}"
                if log.has(path, name, data):
                    done.already += 1
                else:
                    made = translate_bytes(model, data, settings)
                    if made.spread:
                        _write(out / f"{keys[path]}.spread.png", made.spread)
                    _write(out / name, made.picture)
                    log.add(path, name, data, made.picture)
                done.kept += 1
            except Refused as refused:
                done.refused[refused.reason] += 1
                rejected.append(_row(path, refused))
            progress(number, len(paths))
    log.sort(out)
    write_atomically(
        out / REJECTED_FILE, b"".join(map(to_json_line, rejected)), out / f".{REJECTED_FILE}.tmp"
    )
    return done


@dataclass(slots=True)
class _Log:
    """What is done, a row per picture behind a first row that says by what."""

    path: Path
    head: Mapping[str, Any]
    rows: dict[str, dict[str, Any]]
    file: Any = None

    @classmethod
    def open(cls, out: Path, model: LoadedModel, settings: TranslateSettings) -> _Log:
        """Read what an earlier call of the same model and settings left."""
        how = settings.model_dump(mode="json", exclude={"batch", "max_pixels"})
        head = {
            "model": sha256(model.path.read_bytes()).hexdigest(),
            "direction": model.config.direction,
            **how,
        }
        path = out / DONE_FILE
        rows = [row for row in _rows_of(path) if isinstance(row, dict)]
        known = rows[1:] if rows[:1] == [head] else []
        log = cls(path, head, {str(row.get("source_hex")): row for row in known})
        log.sort(out)
        return log

    def __enter__(self) -> _Log:
        self.file = self.path.open("ab")
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def has(self, path: bytes, name: str, data: bytes) -> bool:
        """Tell whether the result of this source is there, whole."""
        row = self.rows.get(path.hex())
        if (
            row is None
            or row.get("file_name") != name
            or row.get("source_sha256") != sha256(data).hexdigest()
        ):
            return False
        made = self.path.parent / name
        return made.is_file() and sha256(made.read_bytes()).hexdigest() == row.get("sha256")

    def add(self, path: bytes, name: str, data: bytes, made: bytes) -> None:
        """Remember one result at once."""
        row = {"source": printable(path), "source_hex": path.hex(), "source_sha256": sha256(data).hexdigest()}
        row |= {"file_name": name, "sha256": sha256(made).hexdigest()}
        self.rows[path.hex()] = row
        self.file.write(to_json_line(row))
        self.file.flush()

    def sort(self, out: Path) -> None:
        """Write all rows in order, so that equal work leaves equal bytes."""
        lines = [self.head, *(self.rows[name] for name in sorted(self.rows))]
        write_atomically(self.path, b"".join(map(to_json_line, lines)), out / f".{DONE_FILE}.tmp")


def _rows_of(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            return


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "output", folder, error.strerror or "cannot be made", "give another folder"
        ) from None


def _write(path: Path, data: bytes) -> None:
    _make(path.parent)
    write_atomically(path, data, path.with_name(f".{path.name}.tmp"))


def translate_file(model: LoadedModel, data: bytes, name: str, settings: TranslateSettings) -> bytes:
    """Return one restored picture as a file; CorpusError, naming it, where it cannot be read."""
    try:
        return translate_bytes(model, data, settings).picture
    except Refused as refused:
        raise CorpusError(
            "picture", name, f"{refused.reason} {refused.detail}".strip(), "give another"
        ) from None


def _row(path: bytes, refused: Refused) -> dict[str, Any]:
    return {
        "source": printable(path),
        "source_hex": path.hex(),
        "reason": refused.reason,
        "detail": printable(refused.detail),
    }

"""Replay: compute the input of one pair again from its row and the recipe, and compare.

The drawn parameters come from the row, not from the seed, so the row itself is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from img2img_data.builds import pairs
from img2img_data.builds.pairings import pairing_of
from img2img_data.builds.pairs import BuildSettings, CorpusJob, EncodedFile, LoadedSource
from img2img_data.core.errors import CorpusError, Rejected, UsageError, printable
from img2img_data.core.files import no_folder, versions, write_atomically, writing_to
from img2img_data.core.jsonl import Row, checked_row, lines_of
from img2img_data.core.settings_model import Place, build_part
from img2img_data.corpus.format import TILE_COLUMNS, inside
from img2img_data.corpus.reader import read_info, stated_corpus
from img2img_data.images import io
from img2img_data.runner.plan import ImageTask, Plan

_NOT_COMPUTED: Final = ("combine", "halves", "unpaired")
"""Pairings whose input is a source image as it is."""


class ReplayResult(NamedTuple):
    """Result of a replay: True if the bytes are equal, and the lines to print."""

    equal: bool
    lines: tuple[str, ...]


def replay_pair(
    root: Path, key: str, source: Path | None = None, out: Path | None = None
) -> ReplayResult:
    """Compute the input of ``key`` again and compare it with its row, byte for byte.

    Args:
        source: the folder from which the corpus was built. Without it the clean image in the
            corpus is used if it was stored without loss: copied, PNG, or WebP at 100.
        out: new file for the computed image; in the combined layout it is A|B.

    Raises ``CorpusError`` if the corpus cannot be replayed or the source is missing or another one,
    ``UsageError`` for an unknown key.
    """
    if out is not None and os.path.lexists(out):
        raise UsageError("file", out, "already exists", "choose another name")
    if source is not None and not source.is_dir():
        raise no_folder(source)
    info = read_info(root)
    job = _job_of(root, info, source)
    split, row = _find_row(root, key)
    tile = tuple(row[name] for name in TILE_COLUMNS if name in row)
    if len(tile) != (len(TILE_COLUMNS) if job.settings.tile else 0):
        why = f"is damaged: the row '{printable(key)}' contradicts the setting 'tile'"
        raise CorpusError("corpus", root, why, "build it again")
    # The digest in the row tells whether a linked file is the source, so links are followed.
    links = source is not None
    task = ImageTask(0, key, 0, (_source_path(root, row),), {}, None, tile=tile, follow_links=links)
    name = printable(task.sources[0])
    try:
        if source is None:
            loaded = _clean_image(job, root / split, row)
        else:
            (loaded,) = pairs.read_sources(job, task)
    except Rejected as rejected:
        what = "the clean image in the corpus" if source is None else f"the source '{name}'"
        raise CorpusError(f"{what} cannot be used", None, str(rejected)) from None
    if loaded.sha256 and loaded.sha256 != row.get("source_sha256"):
        why = "is not the image from which the corpus was built"
        raise CorpusError("source", name, why, "its bytes differ")
    file = _compute(root, job, task, row, loaded)
    if out is not None:
        with writing_to(out):
            write_atomically(out, file.data)
    numbers = ((n, f"{v:.6g}" if isinstance(v, float) else v) for n, v in row["drawn"].items())
    drawn = ", ".join(f"{n}={v}" for n, v in numbers)
    checked = "its SHA-256 matches the row" if loaded.sha256 else "its SHA-256 was not checked"
    shown = "the clean image of the pair" if source is None else row.get("source")
    equal, lines = _compared(root / split, row, file, info.get("versions"))
    head = (f"drawn    {drawn or 'nothing'}", f"source   {shown}, {checked}")
    return ReplayResult(equal, (*head, *lines))


def _job_of(root: Path, info: Mapping[str, Any], source: Path | None) -> CorpusJob:
    """Return the job with which the corpus was built."""
    recipe = info.get("recipe") if info.get("kind") == "paired" else None
    if not isinstance(recipe, dict) or recipe.get("pairing") in _NOT_COMPUTED:
        why, hint = "was not computed from single images", "only computed inputs can be replayed"
        raise CorpusError("corpus", root, why, hint)
    place = Place(f"corpus '{printable(root)}'", ("recipe",))
    settings = build_part(BuildSettings, recipe, place)
    pairing = pairing_of(recipe, place)
    if source is None and not pairing.clean:
        why = f"missing: the targets of '{recipe['pairing']}' are not the source images"
        raise UsageError("option", "--source", why, "give the folder of the source images")
    plan = Plan((os.fsencode(source or root),))
    return pairs.make_job(plan, pairing, root, settings, str(recipe.get("command")))


def _find_row(root: Path, key: str) -> tuple[str, Row]:
    """Return the split and the row of a key, reading the manifests line by line."""
    # Parsing every line of a large corpus takes minutes, so lines without the key are skipped.
    text = json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass")
    first = ""
    for manifest in stated_corpus(root).manifests:
        for number, line in enumerate(lines_of(manifest), 1):
            if first and text not in line:
                continue
            row = checked_row(line, manifest, f"line {number}")
            if row.get("key") == key:
                return manifest.parent.name, row
            first = first or str(row.get("key"))
    hint = f"its first key is '{first}'" if first else "it has no pairs"
    raise UsageError("key", key, "is not in the corpus", hint)


def _source_path(root: Path, row: Row) -> bytes:
    """Return the relative path of a row's source; ``CorpusError`` if it leaves its folder."""
    try:
        path = bytes.fromhex(row["source_hex"])
    except (KeyError, TypeError, ValueError):
        why, hint = "a row does not name its source", "build it again"
        raise CorpusError("corpus", root, why, hint) from None
    # A corpus may be untrusted: its rows must not make us read files outside the folder.
    if not path or b"\0" in path or {b"", b".", b".."} & set(path.split(b"/")):
        why = f"a row names '{printable(path)}' as its source"
        raise CorpusError("corpus", root, why, "do not use it")
    return path


def _clean_image(job: CorpusJob, folder: Path, row: Row) -> LoadedSource:
    """Return the clean image in the corpus as the source; only a copy has a known digest."""
    combined = job.settings.layout == "combined"
    column = "file_name" if combined else "target_file_name"
    path, hint = inside(folder, row.get(column)), "give the source folder with --source"
    data = io.read_bytes(path)
    if sha256(data).hexdigest() != row.get(column.replace("file_name", "sha256")):
        raise CorpusError("image", path, "does not match its row", hint)
    copied = not combined and row.get("target_sha256") == row.get("source_sha256")
    lossless = path.suffix == ".png" or (path.suffix == ".webp" and job.settings.quality == 100)
    if not copied and not lossless:
        why = "was compressed with loss, so the input cannot be recomputed"
        raise CorpusError("image", path, why, hint)
    image = io.decode(data, job.policy)
    pixels = image.pixels[:, image.pixels.shape[1] // 2 :] if combined else image.pixels
    return LoadedSource(data, str(row["source_sha256"]) if copied else "", image, pixels)


def _compute(
    root: Path, job: CorpusJob, task: ImageTask, row: Row, source: LoadedSource
) -> EncodedFile:
    """Return the input file (or the A|B file) as the build would write it."""
    drawn = row.get("drawn")
    try:
        # The values become keyword arguments of ``apply``, so only plain numbers may pass.
        if not isinstance(drawn, dict) or not all(type(v) in {int, float} for v in drawn.values()):
            raise TypeError("'drawn' is not a mapping to numbers")
        pair = job.pairing.apply([source.pixels], drawn)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        why = f"the row '{printable(task.key)}' does not match its recipe ({printable(error)[:80]})"
        raise CorpusError("corpus", root, why, "build it again") from None
    return pairs.encode_files(job, task, pair.input, pair.target, [source])[0]


def _compared(folder: Path, row: Row, file: EncodedFile, saved: object) -> tuple[bool, list[str]]:
    """Return True if a file is as recorded and on disk, and the lines about it."""
    name = f"{folder.name}/{row.get(file.column)}"
    recorded = row.get(file.column.replace("file_name", "sha256"))
    if file.sha256 == recorded:
        with suppress(Rejected):
            if io.read_bytes(inside(folder, row.get(file.column))) == file.data:
                return True, [f"equal    {name}, byte for byte"]
        return False, [f"differs  the computed bytes match the row, but not the file '{name}'"]
    lines = [f"differs  {name}: computed {file.sha256[:16]}, recorded {str(recorded)[:16]}"]
    for library, version in saved.items() if isinstance(saved, dict) else ():
        here = versions(library)[library]
        if here != version:
            lines.append(f"         built with {library} {version}, here {here}")
    return False, lines

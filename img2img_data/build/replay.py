"""Make the input of one pair again from its row and the recipe in corpus.json, and compare the bytes.

The parameters come from the row, not from the seed: what a row says is what is checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from img2img_data.build.pairings import pairing_of
from img2img_data.build.pairs import Encoded, Job, Source, encode_files, make_job, read_sources
from img2img_data.core.errors import CorpusError, Rejected, UsageError, printable
from img2img_data.core.files import versions, write_atomically, writing_to
from img2img_data.core.settings_model import Place, build_model, did_you_mean
from img2img_data.corpus.format import METADATA_FILE, inside
from img2img_data.corpus.reader import read_info
from img2img_data.images import io
from img2img_data.runner.plan import Plan, Task
from img2img_data.runner.settings import BuildSettings

_TWO_SOURCES: Final = ("combine", "halves", "unpaired")
_NEAR: Final = 20_000
"""How many keys are looked through for one that was meant."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out: whether the bytes are equal, and the lines that tell a person."""

    equal: bool
    lines: tuple[str, ...]


def replay_pair(
    root: Path, key: str, source: Path | None = None, out: Path | None = None
) -> Replayed:
    """Make the input of ``key`` again and compare it with its row, byte for byte.

    ``source`` is the folder that the corpus was made from. Without it the clean image in the corpus
    serves where it was kept without loss: copied unchanged, PNG, or WebP at 100. In the combined layout the
    file compared is the whole A|B. Writes what it made to ``out``, which must not exist yet.

    Raises ``CorpusError`` for a corpus that is none or cannot be replayed, or a source that is missing or
    not the one noted, ``UsageError`` for an unknown key.
    """
    if out is not None and os.path.lexists(out):
        raise UsageError("file", out, "exists already", "choose another name")
    if source is not None and not source.is_dir():
        raise UsageError("folder", source, "no such folder", "check the path")
    info = read_info(root)
    job = _job_of(root, info, source)
    split, row = _find_row(root, key)
    task = Task(0, key, 0, (_source_path(root, row),), {}, None)
    own = source is None
    try:
        found = _own_source(job, root / split, row) if own else read_sources(job, task)[0]
    except Rejected as rejected:
        where = (
            "the clean image in the corpus" if own else f"the source '{printable(task.sources[0])}'"
        )
        raise CorpusError(
            f"{where} cannot be used", None, f"{rejected.reason} {rejected.detail}".strip()
        ) from None
    if found.sha256 and found.sha256 != row.get("source_sha256"):
        name = printable(task.sources[0])
        raise CorpusError(
            "source", name, "is not the image the corpus was made from", "its bytes differ"
        )
    made = _made_again(root, job, task, row, found)
    if out is not None:
        with writing_to(out):
            write_atomically(out, made.data)
    return _compared(root / split, info, row, made, found, own)


# --------------------------------------------------------------------------------------- what is noted
def _job_of(root: Path, info: Mapping[str, Any], source: Path | None) -> Job:
    """Return what every worker knew when the corpus was built."""
    recipe = info.get("recipe")
    if (
        not isinstance(recipe, dict)
        or info.get("kind") != "paired"
        or recipe.get("pairing") in _TWO_SOURCES
    ):
        why = "was not made of single photos"
        raise CorpusError(
            "corpus", root, why, "an input that was taken as it is cannot be made again"
        )
    place = Place(f"corpus '{printable(str(root))}'", ("recipe",))
    given = {name: recipe[name] for name in BuildSettings.model_fields if name in recipe}
    settings = build_model(BuildSettings, given, place)
    pairing = pairing_of(recipe, place)
    if source is None and not pairing.clean:
        why = f"missing: the targets of '{recipe['pairing']}' are not the photos they were made of"
        raise UsageError("option", "--source", why, "name the folder of the photos")
    plan = Plan((os.fsencode(source or root),))
    return make_job(plan, pairing, root, settings, str(recipe["command"]))


def _find_row(root: Path, key: str) -> tuple[str, dict[str, Any]]:
    """Return the split and the row of a key, reading the manifests line by line."""
    wanted = json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass")
    near: list[str] = []
    for manifest in sorted(root.glob(f"*/{METADATA_FILE}")):
        with manifest.open("rb") as file:
            for line in file:
                if wanted not in line and len(near) >= _NEAR:
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    raise CorpusError(
                        "manifest", manifest, "has a damaged line", "build it again"
                    ) from None
                if isinstance(row, dict) and row.get("key") == key:
                    return manifest.parent.name, row
                near.append(str(row.get("key")) if isinstance(row, dict) else "")
    hint = did_you_mean(key, near) if len(near) > 20 else f"it has {', '.join(near[:20]) or 'none'}"
    if len(near) > 20 and "did you mean" not in hint:
        hint = f"keys look like '{near[0]}'"
    raise UsageError("key", key, "is not in the corpus", hint)


def _source_path(root: Path, row: Mapping[str, Any]) -> bytes:
    """Return the relative path of a row's source; one that leaves its folder is a ``CorpusError``."""
    try:
        path = bytes.fromhex(row["source_hex"])
    except (KeyError, TypeError, ValueError):
        raise CorpusError(
            "corpus", root, "a row does not name its source", "build it again"
        ) from None
    if not path or b"\0" in path or {b"", b".", b".."} & set(path.split(b"/")):
        raise CorpusError(
            "corpus", root, f"a row names '{printable(path)}' as source", "do not use it"
        )
    return path


def _own_source(job: Job, folder: Path, row: Mapping[str, Any]) -> Source:
    """Take the clean image in the corpus for the source. Its own digest is known only of a copy."""
    whole = job.layout == "combined"
    column = "file_name" if whole else "target_file_name"
    path = inside(folder, row.get(column))
    data = io.read_bytes(path)
    if sha256(data).hexdigest() != row.get(column.replace("file_name", "sha256")):
        raise CorpusError(
            "image", path, "is not what its row says", "give the source folder by --source"
        )
    copied = not whole and row.get("target_sha256") == row.get("source_sha256")
    lossless = path.suffix == ".png" or (path.suffix == ".webp" and job.settings.quality == 100)
    if not copied and not lossless:
        why = "was compressed with loss, so the input cannot be made from it"
        raise CorpusError("image", path, why, "give the source folder by --source")
    image = io.decode(data, job.policy)
    pixels = image.pixels[:, image.pixels.shape[1] // 2 :] if whole else image.pixels
    return Source(data, str(row["source_sha256"]) if copied else "", image, pixels)


# --------------------------------------------------------------------------------------------- again
def _made_again(
    root: Path, job: Job, task: Task, row: Mapping[str, Any], source: Source
) -> Encoded:
    """Return the input file (or the A|B file) as the builder would write it."""
    drawn = row.get("drawn")
    try:
        if not isinstance(drawn, dict) or not all(type(v) in {int, float} for v in drawn.values()):
            raise TypeError("'drawn' holds more than numbers")
        made = job.pairing.redo([source.pixels], drawn)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        why = f"the row '{printable(task.key)}' does not fit its recipe ({printable(str(error))[:80]})"
        raise CorpusError("corpus", root, why, "build it again") from None
    return encode_files(job, task, made.input, made.target, [source])[0]


def _compared(
    folder: Path,
    info: Mapping[str, Any],
    row: Mapping[str, Any],
    made: Encoded,
    source: Source,
    own: bool,
) -> Replayed:
    name = f"{folder.name}/{row.get(made.column)}"
    drawn = ", ".join(
        f"{n}={v:.6g}" if isinstance(v, float) else f"{n}={v}" for n, v in row["drawn"].items()
    )
    lines = [f"drawn    {drawn or 'nothing'}"]
    about = "sha256 as noted" if source.sha256 else "sha256 of the original not checked"
    lines.append(f"source   {'the clean image of the pair' if own else row.get('source')}, {about}")
    equal = made.sha256 == row.get(made.column.replace("file_name", "sha256"))
    if equal and not _is_there(folder, row, made):
        return Replayed(
            False, (*lines, f"differs  the row is right, but the file '{name}' holds other bytes")
        )
    if equal:
        return Replayed(True, (*lines, f"equal    {name}, byte for byte"))
    lines.append(
        f"differs  {name}: made {made.sha256[:16]}, noted {str(row.get('input_sha256'))[:16]}"
    )
    return Replayed(False, (*lines, *_other_versions(info)))


def _is_there(folder: Path, row: Mapping[str, Any], made: Encoded) -> bool:
    try:
        return io.read_bytes(inside(folder, row.get(made.column))) == made.data
    except Rejected:
        return False


def _other_versions(info: Mapping[str, Any]) -> list[str]:
    """Return a line on each library that is another than when the corpus was built."""
    noted = info.get("versions")
    noted = noted if isinstance(noted, dict) else {}
    here = ((name, then, versions(name)[name]) for name, then in noted.items())
    return [
        f"         built with {name} {then}, here {now}" for name, then, now in here if then != now
    ]

"""MATLAB .mat files (up to version 7), read by scipy in a child process with limits.

A hostile file may declare any size, nest to any depth or crash its reader. The child has limits of
memory and time and answers in JSON, so the worst outcome is an error of one line. Nothing in a .mat
is executed.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import UsageError, load_extra

# imdb.mat, 460,723 rows, takes 1 GiB and less than a minute.
MAX_GIB: Final = 2
MAX_SECONDS: Final = 300


def read_columns(mat: Path, variables: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a struct, the first that is found of ``variables``, each as a list.

    An item is a float, a text ("" for an empty cell), or None for anything else; fields that the
    struct lacks are left out. ``UsageError`` names the file if it cannot be read.
    """
    load_extra("scipy", "wiki", "list", mat)
    # -P and this process' path: the child imports what this process would, and nothing from the
    # current folder. One thread: OpenBLAS reserves address space, which counts, for each.
    child = [sys.executable, "-P", "-m", __name__]
    command = [*child, str(mat), ",".join(variables), ",".join(fields)]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    env = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
    hint = "download it again"
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        raise UsageError("list", mat, f"takes more than {MAX_SECONDS} s to read", hint) from None
    if done.returncode:
        raise UsageError("list", mat, "is damaged (its reader crashed)", hint)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise UsageError("list", mat, answer["error"], answer.get("hint", hint))
    return answer


# --------------------------------------------------------------------------------- child process
def _answer(path: str, variables: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    try:
        return _read(path, variables, fields)
    except PermissionError as error:
        return {"error": error.strerror, "hint": "check the path"}
    except NotImplementedError:
        # No reader of HDF5 is a dependency for this: the published lists are of version 5.
        hint = "save it in MATLAB with the option -v7"
        return {"error": "is a MATLAB 7.3 (HDF5) file", "hint": hint}
    except MemoryError:
        return {"error": f"needs more than {MAX_GIB} GiB of memory to read"}
    except Exception as error:  # scipy raises whatever its code trips over
        unknown = "Unknown mat file" in str(error)
        return {"error": "is not a MATLAB 5 to 7 file" if unknown else "is damaged"}


def _read(path: str, variables: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    from scipy.io import loadmat

    _limit_resources()
    with open(path, "rb") as file:
        head = file.read(128)
    if head.startswith(b"\x89HDF"):
        raise NotImplementedError
    decode = partial(_decode, "big" if head[126:] == b"MI" else "little")
    codec = codecs.CodecInfo(codecs.utf_16_le_encode, decode)
    codecs.register(lambda name: codec if name == "ucs2" else None)
    warnings.simplefilter("ignore")
    load: Any = loadmat  # its type stubs do not know uint16_codec
    content = load(path, appendmat=False, variable_names=variables, uint16_codec="ucs2")
    name = next((name for name in variables if name in content), None)
    if name is None:
        return {"error": f"has no variable '{variables[0]}'"}
    if content[name].dtype.names is None:
        return {"error": f"has a variable '{name}' that is not a struct"}
    record = content[name].ravel()[0]
    return {field: _column(record[field]) for field in fields if field in record.dtype.names}


def _limit_resources() -> None:
    # Windows has no module resource: there only the limit of time holds.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        # The CPU time ends the child even if its parent was killed.
        limits = {resource.RLIMIT_AS: MAX_GIB << 30, resource.RLIMIT_CPU: MAX_SECONDS}
        for kind, limit in limits.items():
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


def _decode(byte_order: Any, data: Any, errors: str = "strict") -> tuple[str, int]:
    # scipy wants one character for each 16 bits of a text. UTF-16 would merge surrogate pairs, and
    # one emoji would damage the list; JSON merges the pairs afterwards.
    units = (data[at : at + 2] for at in range(0, len(data), 2))
    return "".join(chr(int.from_bytes(unit, byte_order)) for unit in units), len(data)


def _column(values: Any) -> list[str | float | None]:
    if values.dtype.kind in "biuf":
        return [float(value) for value in values.ravel()]
    return [_text(cell) for cell in values.ravel()]


def _text(cell: Any) -> str | None:
    if cell.size == 0:
        return ""
    value = cell.ravel()[0] if cell.size == 1 else None
    return str(value) if isinstance(value, str) else None


if __name__ == "__main__":
    json.dump(_answer(sys.argv[1], *(words.split(",") for words in sys.argv[2:])), sys.stdout)

"""Lists in the format of IMDB-WIKI: MATLAB files with a struct of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io


def cells(values: list[Any]) -> np.ndarray:
    """Return a MATLAB cell array, 1 x N."""
    out = np.empty((1, len(values)), object)
    out[0, :] = values
    return out


def write_mat(file: Path, entries: list[Any], variable: str = "wiki", **fields: Any) -> Path:
    """Write a list of images; ``fields`` replace columns, or remove them if they are None."""
    count = len(entries)
    table: dict[str, Any] = {
        "dob": np.full((1, count), 720191.0),
        "photo_taken": np.full((1, count), 2011.0),
        "full_path": cells(entries),
        "gender": np.ones((1, count)),
        "name": cells([f"Name {n}" for n in range(count)]),
        "face_location": cells([np.array([[1.0, 1.0, 9.0, 9.0]])] * count),
        "face_score": np.full((1, count), 3.0),
        "second_face_score": np.full((1, count), np.nan),
    }
    table |= fields
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: column for name, column in table.items() if column is not None}
    scipy.io.savemat(file, {variable: columns}, do_compression=True)
    return file

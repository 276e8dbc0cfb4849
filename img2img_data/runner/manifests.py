"""The end of a run: rows in the order of the keys become the manifests, then the folder's page, by rename."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from img2img_data.core.files import write_atomically
from img2img_data.corpus.format import METADATA_FILE, REJECTED_FILE, to_json_page
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import SHOWN, Report

SHARD_FILE: Final = "shard.tsv"
"""In a shard: one line a row, "place in the whole plan, manifest", by which a merge finds the order."""

LIBRARIES: Final = ("img2img", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "deflate")
"""Distributions on which the bytes of an image depend; the page of a corpus records their versions."""

_NOTED: Final = b'"notes": ["'
_TARGET: Final = re.compile(rb'"target_source_sha256": "([0-9a-f]{16})')


def write_manifests(
    folder: BuildFolder,
    rows: Iterable[tuple[int, str, bytes]],
    page: Mapping[str, Any],
    report: Report,
    places: Sequence[int] | None = None,
) -> None:
    """Write metadata.jsonl of each manifest and rejected.jsonl, then the folder's page, by rename.

    ``rows``: (index, manifest or "" for a rejection, line). ``page`` goes before the counts of ``report``.
    ``places`` makes the folder a shard: the place in the whole plan of each index, kept in ``SHARD_FILE``.
    """
    parts = folder.building / "manifests"
    parts.mkdir(exist_ok=True)
    found = Gathered(converts=page["kind"] != "selection")
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {"": stack.enter_context((parts / "rejected").open("wb"))}
        order = stack.enter_context((parts / "order").open("wb"))
        for index, name, line in rows:
            if name not in files:
                files[name] = stack.enter_context((parts / f"kept-{name}").open("wb"))
            files[name].write(line)
            found.add(line)
            if places is not None:
                order.write(f"{places[index]}\t{name}\n".encode())
        for file in (order, *files.values()):
            file.flush()
            os.fsync(file.fileno())
    report.notes.update(found.notes)
    names = [name for name in files if name]
    report.warnings += found.same_targets([parts / f"kept-{name}" for name in names])[:SHOWN]
    for name in names:
        (parts / f"kept-{name}").replace(folder.root / name / METADATA_FILE)
    (parts / "rejected").replace(folder.root / REJECTED_FILE)
    if places is not None:
        (parts / "order").replace(folder.root / SHARD_FILE)
    whole = {
        **page,
        "counts": {
            "kept": dict(sorted(report.kept.items())),
            "rejected": dict(sorted(report.rejected.items())),
            "total": report.total,
            **({"notes": dict(sorted(found.notes.items()))} if found.notes else {}),
        },
        **({"measured": found.measured()} if found.worst else {}),
    }
    write_atomically(
        folder.root / folder.page, to_json_page(whole), folder.building / "page", sync=True
    )


@dataclass(slots=True)
class Gathered:
    """What only the whole tells: how many images were converted in which way (unless the run copies files);
    the measured values; targets that are there twice.
    """

    converts: bool = True
    notes: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    measurements: Counter[str] = field(default_factory=Counter)
    targets: array[int] = field(default_factory=lambda: array("Q"))
    """The head of each target's digest, 8 bytes a row."""

    def add(self, line: bytes) -> None:
        """Look at one row of a manifest."""
        if self.converts and (at := line.rfind(_NOTED)) >= 0:
            self.notes.update(json.loads(line[at + len(_NOTED) - 2 : line.index(b"]", at) + 1]))
        if b'"measured"' in line:
            for name, value in json.loads(line).get("measured", {}).items():
                self.worst[name] = max(self.worst.get(name, value), value, key=abs)
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.measurements[name] += 1
        target = _TARGET.search(line)
        if target:
            self.targets.append(int(target[1], 16))

    def measured(self) -> dict[str, float]:
        """Return of what is called a mean or a share the mean, of the rest the value farthest from 0."""
        means = {n: round(self.sums[n] / self.measurements[n], 6) for n in self.sums}
        return {
            n: means[n] if n.endswith(("_mean", "_share")) else v for n, v in self.worst.items()
        }

    def same_targets(self, manifests: Iterable[Path]) -> list[str]:
        """Return a warning for each target that is the same image as one under another name."""
        if len(self.targets) < 2:
            return []
        import numpy as np

        known, counts = np.unique(np.frombuffer(self.targets, np.uint64), return_counts=True)
        again = set(map(int, known[counts > 1]))
        first: dict[str, str] = {}
        found = []
        for row in _rows_with(again, manifests) if again else ():
            name = first.setdefault(row["target_source_sha256"], row["target_source"])
            if name != row["target_source"]:
                found.append(
                    f"'{row['target_source']}' and '{name}' are the same image, duplicated"
                )
        return found


def _rows_with(targets: set[int], manifests: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in manifests:
        with path.open("rb") as lines:
            for line in lines:
                found = _TARGET.search(line)
                if found and int(found[1], 16) in targets:
                    yield json.loads(line)

"""The run folder: paths, lock, log and configuration.

::

    config.json             the resolved configuration, versions, the content of the corpora
    log.jsonl               a row per epoch and per validation
    steps.jsonl             a row per step: losses and learning rate
    timing.jsonl            date, command, machine; seconds and rates per epoch; the only file that
                            differs between equal runs
    samples/epoch-00005.png input | output | target, the same images each time
    samples/keys.json       the keys of those images, a row of the grid each
    samples/training.png    the first pairs of training, input | target: degraded, cropped, turned
    checkpoints/            latest and previous (complete), best and epoch-00010 (networks only)
    tensorboard/            the log and the samples again, with --tensorboard
    evaluation/ report.html scores of the finished run, and the page about it
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.command_line import shell_line
from img2img_data.core.errors import CheckpointError, Img2ImgError, UsageError, printable
from img2img_data.core.files import check_unused, locked, sync_folder, versions, write_atomically
from img2img_data.core.jsonl import parse_object
from img2img_data.corpus.format import CORPUS_FILE, digest, is_run, to_json_line, to_json_page
from img2img_train.config import CONFIG_FILE, RUN_FORMAT, RunConfig, read_page

if TYPE_CHECKING:
    # Imported by the methods that need torch, which a report does not.
    from img2img_train.runs.checkpoint import Checkpoint, Description, Tensors

# The workers of a killed run hold its lock until they notice that their parent is gone.
LOCK_WAIT_SECONDS: Final = 2.0
LONGEST_CHANGE: Final = 160
OUT_HINT: Final = "choose another --out"
MODEL_FILE: Final = "model.safetensors"
"""The generator in an exported model folder."""
LIBRARIES: Final = ("img2img", "python", "torch")
"""Distributions that the numbers of a run depend on; config.json and checkpoints record them."""


class RunFolder:
    """The paths of a run, and the changes of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / CONFIG_FILE
        self.log = root / "log.jsonl"
        self.steps = root / "steps.jsonl"
        self.timing = root / "timing.jsonl"
        self.samples = root / "samples"
        self.training_samples = self.samples / "training.png"
        self.sample_keys = self.samples / "keys.json"
        self.checkpoints = root / "checkpoints"
        self.latest = self.checkpoints / "latest.safetensors"
        self.previous = self.checkpoints / "previous.safetensors"
        self.best = self.checkpoints / "best.safetensors"
        self.report = root / "report.html"

    def _error(self, why: str, hint: str = OUT_HINT) -> UsageError:
        return UsageError("run", self.root, why, hint)

    def has_current_report(self) -> bool:
        """Return True if report and scores are at least as new as the latest checkpoint."""
        # The command 'report' writes a report, too, and no scores.
        scores = [path.stat().st_mtime_ns for path in self.root.glob("evaluation/*.json")]
        if not scores or not self.report.exists():
            return False
        oldest = min(max(scores), self.report.stat().st_mtime_ns)
        return oldest >= self.latest.stat().st_mtime_ns

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder, creating it if missing; FolderInUseError if another process holds it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error.strerror or "cannot be created") from None
        return locked(self.root, "run", f"wait for it, or {OUT_HINT}", LOCK_WAIT_SECONDS)

    def check_free(self) -> None:
        """Raise UsageError if the folder holds something other than a run."""
        nearest = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not nearest.is_dir():
            inside = f"would be inside the file '{printable(nearest)}'"
            raise self._error("is a file" if nearest == self.root else inside)
        if not self.config.is_file():
            check_unused(self.root, what="run")

    def append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Append rows to the log or the timing file."""
        try:
            # One write, so that an interruption leaves all of the rows or none.
            with path.open("ab") as file:
                file.write(b"".join(map(to_json_line, rows)))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def truncate_logs(self, size: int, step: int) -> None:
        """Cut the log to ``size`` bytes, the steps after ``step``, and damaged ends: rows newer
        than a checkpoint are written again.
        """
        kept = {self.log: size}
        # The others are not synced: a power failure or a full disk can leave any bytes at the end.
        for path in (self.steps, self.timing):
            rows = takewhile(lambda r: r[1] and r[1].get("step", 0) <= step, _rows_of(path))
            kept[path] = sum(len(line) for line, _ in rows)
        for path, end in kept.items():
            if path.exists() and path.stat().st_size > end:
                os.truncate(path, end)

    def sync_log(self) -> int:
        """Flush the log to the disk and return its size in bytes."""
        if not self.log.exists():
            return 0
        with self.log.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def remove_temporaries(self) -> None:
        """Remove the half-written files of a killed run."""
        for path in [*self.root.glob(".*.tmp"), *self.root.glob("*/.*.tmp")]:
            path.unlink(missing_ok=True)

    def write_latest(self, tensors: Tensors, about: Description) -> None:
        """Write the latest checkpoint; the one before becomes the previous one."""
        from img2img_train.runs.checkpoint import write_checkpoint

        # Complete on the disk before anything is renamed: between the two renames there is no
        # latest checkpoint, but a previous one, which ``load_newest`` finds.
        fresh = self.latest.with_name(".next.safetensors.tmp")
        write_checkpoint(fresh, tensors, about)
        if self.latest.exists():
            self.latest.replace(self.previous)
        fresh.replace(self.latest)
        sync_folder(self.checkpoints)

    def latest_step(self) -> int | None:
        """Return the step of the newest intact checkpoint; None and errors as ``load_newest``."""
        newest = self.load_newest(None, ())
        return newest.description.progress.step if newest else None

    def load_newest(
        self, warn: Callable[[str], None] | None, prefix: str | tuple[str, ...] = ""
    ) -> Checkpoint | None:
        """Return the newest intact checkpoint, None if there is none; ``prefix`` as for
        ``read_checkpoint``.

        A damaged latest checkpoint is reported to ``warn``, if given, and replaced by the previous
        one. Raises CheckpointError if both are damaged, or if one is of another version or cannot
        be read now.
        """
        from img2img_train.runs.checkpoint import read_checkpoint

        errors = list[CheckpointError]()
        for path in filter(Path.exists, (self.latest, self.previous)):
            try:
                checkpoint = read_checkpoint(path, prefix)
                if not checkpoint.description.complete:
                    why = "holds networks only, so training cannot be resumed from it"
                    raise CheckpointError("checkpoint", path, why)
            except CheckpointError as error:
                if error.__cause__ is not None:  # not damaged: see ``read_checkpoint``
                    raise
                errors.append(error)
                continue
            if errors and warn is not None:
                warn(f"warning: {errors[0]}; resuming from the one before")
            if path == self.previous and warn is not None:
                path.replace(self.latest)
            return checkpoint
        if errors:
            raise errors[0]
        return None

    def write_config(self, config: RunConfig, data: Mapping[str, Any]) -> None:
        """Write config.json, or ``check_unchanged`` if it is there already."""
        if self.config.is_file():
            self.check_unchanged(config, data)
            return
        saved = {"config": config.model_dump(mode="json"), "versions": versions(*LIBRARIES)}
        page = {"format": RUN_FORMAT, **saved, "data": data, "folders": _folders_of(config)}
        self._write_config(page)

    def _write_config(self, page: Mapping[str, Any]) -> None:
        page = {**page, "digest": _digest_of(page)}
        write_atomically(self.config, to_json_page(page), sync=True)

    def _read_config(self) -> dict[str, Any]:
        page = read_page(self.config)
        # Otherwise an edit would look like another corpus, or change a run halfway.
        if page.pop("digest", None) not in (None, _digest_of(page)):
            why = f"its {CONFIG_FILE} was edited after the run began"
            raise self._error(why, f"undo the edit, or {OUT_HINT}")
        return page

    def change_config(self, config: RunConfig, data: Mapping[str, Any]) -> None:
        """Replace the settings of a begun run; config.json notes the step and the old values.

        Raises UsageError if it was begun on other images, or stopped early.
        """
        page, begun = self._read_config(), RunConfig.load(self.config)
        changes = begun.changes(config)
        if not changes:
            return
        stopped = [row for row in read_log(self.root) if row["kind"] == "stopped"]
        if stopped:
            hint = f"start another run: fit --init {printable(self.root)}"
            raise self._error(stopped[-1]["text"], hint)
        # The number of steps follows from the settings.
        self._check_data({**page.get("data", {}), "steps": data["steps"]}, data)
        change = {"step": self.latest_step() or 0, **{n: list(v) for n, v in changes.items()}}
        page |= {"config": config.model_dump(mode="json"), "data": data}
        page["changes"] = [*page.get("changes", []), change]
        self._write_config(page)

    def check_unchanged(self, config: RunConfig, data: Mapping[str, Any]) -> None:
        """Raise UsageError if the run in this folder has other settings or other images."""
        page, begun = self._read_config(), RunConfig.load(self.config)
        # Another spelling of a path, or a start from another folder, changes nothing.
        if _folders_of(config) in (_folders_of(begun), page.get("folders")):
            begun = begun.model_copy(update={"corpora": config.corpora})
        if begun.init and Path(begun.init).resolve() == Path(config.init).resolve():
            begun = begun.model_copy(update={"init": config.init})
        changes = begun.changes(config)
        if words := [_as_change(name, *values) for name, values in changes.items()]:
            why, hint = f"was started with other settings ({'; '.join(words)})", OUT_HINT
            hint += ", or use the same settings"
            if changes.keys() <= {"epochs", "max_steps"}:
                hint += ", or give the new end to 'img2img-train resume'"
            raise self._error(why, hint)
        self._check_data(page.get("data"), data)

    def _check_data(self, begun: object, data: Mapping[str, Any]) -> None:
        if begun != data:
            hint = f"{OUT_HINT}, and --init with this run to start from its weights"
            raise self._error("was started on other pairs: a corpus has changed", hint)


def _folders_of(config: RunConfig) -> list[list[Any]]:
    return [[str(Path(choice.path).resolve()), choice.weight] for choice in config.corpora]


def _digest_of(page: Mapping[str, Any]) -> str:
    """Return a digest of the content of config.json, however it is indented."""
    return digest(to_json_line(page)).hex()


def notes_on_run(path: Path | str, used: int = 0) -> tuple[str, ...]:
    """Return a note if the path is the folder of a run that is unfinished; ``used`` is the step of
    its model.
    """
    # A model needs its checkpoint alone, so damaged files beside it do not matter here.
    with contextlib.suppress(Img2ImgError, KeyError, TypeError, ValueError):
        steps, log = read_page(Path(path) / CONFIG_FILE)["data"]["steps"], read_log(path)
        step = max(used, log[-1]["step"] if log else 0)
        if step != steps and not (log and log[-1]["kind"] == "stopped"):
            where = f"step {step:,} of {steps:,}"
            if used:
                where += f"; the model is that of step {used:,}"
            resume = shell_line("img2img-train", "resume", Path(path))
            return (f"run '{printable(path)}' is unfinished: {where}; '{resume}' continues it",)
    return ()


def _as_change(name: str, old: object, new: object) -> str:
    text = f"{name} was {_as_text(old)}, now {_as_text(new)}"
    return text if len(text) <= LONGEST_CHANGE else f"{name} differs"


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        corpora = (f"{v['path']}={v['weight']:g}" if isinstance(v, dict) else v for v in value)
        return ", ".join(map(str, corpora))
    return re.sub("[{}']", "", str(value))  # a degradation is a dict


def read_log(run: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a run's log, in order; an empty list before the first.

    ``{"kind": "train", "epoch", "step", "images", "losses": {name: mean}}`` and ``{"kind":
    "validation", "epoch", "step", "psnr", "psnr_input", "psnr_train", "best"}``: PSNR in dB, mean
    over images, that of ``psnr_train`` over a few training pairs; without pairs ``cycle_mae``
    instead, in gray levels. ``{"kind": "warning"`` or ``"stopped", "epoch", "step", "text"}`` are
    remarks.
    """
    return list(_iter_rows(RunFolder(Path(run)).log))


def iter_steps(run: Path | str) -> Iterator[dict[str, Any]]:
    """Yield a row for each step of a run: ``{"step", "lr", "losses": {name: value}}``."""
    return _iter_rows(RunFolder(Path(run)).steps)


def read_timing(run: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a run's timing: ``{"epoch", "seconds", "images_per_second", ...}``."""
    return [row for row in _iter_rows(RunFolder(Path(run)).timing) if "epoch" in row]


def read_sessions(run: Path | str) -> list[dict[str, Any]]:
    """Return a row for each call that trained a run: ``{"started", "command", "machine",
    "commit"}``.
    """
    return [row for row in _iter_rows(RunFolder(Path(run)).timing) if "started" in row]


def _rows_of(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each complete line of a file, if there is one, with its row, None if it is damaged."""
    if path.is_file():
        with path.open("rb") as file:
            # A run in progress is writing its last row.
            yield from ((line, parse_object(line)) for line in file if line.endswith(b"\n"))


def _iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, (_, row) in enumerate(_rows_of(path), 1):
        if row is None:
            why = f"line {number} of its {path.name} is damaged"
            raise CheckpointError("run", path.parent, why, "remove the line")
        yield row


def read_evaluations(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the evaluations that ``fit`` left in a run; files without scores are skipped.

    ``images_file`` is the file with the scores of single images.
    """
    needed = {"corpus", "split", "checkpoint", "scores", "input_scores", "protocol", "gallery"}
    for path in sorted((run / "evaluation").glob("*.json")):
        saved = parse_object(path.read_bytes()) if path.is_file() else None
        if saved and needed <= saved.keys():
            yield {**saved, "images_file": path.with_suffix(".csv")}


def sample_paths(run: Path | str) -> list[Path]:
    """Return the sample grids of a run, oldest first."""
    return sorted(RunFolder(Path(run)).samples.glob("epoch-*.png"))


def find_checkpoint(path: Path | str) -> Path:
    """Return the checkpoint of a run folder (the best one, else the latest), that of an exported
    model folder, or the path itself.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    for candidate in (folder.best, folder.latest, folder.previous, path / MODEL_FILE):
        if candidate.exists():
            return candidate
    if is_run(path):
        raise CheckpointError("run", path, "has no checkpoint yet", "resume it first")
    kind = "corpus" if (path / CORPUS_FILE).is_file() else "folder without a checkpoint"
    hint = "give a run, a checkpoint or an exported model; images and corpora come after it"
    raise CheckpointError("model", path, f"is a {kind}", hint)

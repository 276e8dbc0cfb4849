"""Metrics that need a network, by weights that the user has: nothing is fetched, no code in them is run."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, printable
from img2img_train.metrics.fid import Gaussian, frechet_distance
from img2img_train.metrics.inception import Inception, load_inception
from img2img_train.metrics.lpips import Lpips, load_lpips
from img2img_train.runs.model import choose_device

SIDES: Final = ("input", "output", "target")
FEW_IMAGES: Final = 2048
"""FID of fewer images than features: the covariances have not full rank, and the value is far too high."""

Batch = NDArray[Any]
Means = dict[str, float]


@dataclass(frozen=True, slots=True)
class PerceptualMetrics:
    """What was brought: LPIPS, FID or both; ``files`` says what by, for the protocol."""

    lpips: Lpips | None
    inception: Inception | None
    files: dict[str, str]


def load_perceptual_metrics(
    lpips: tuple[Path, Path] | None, fid: Path | None, device: str
) -> PerceptualMetrics | None:
    """Return the networks of the files that were given, None where there are none.

    ``lpips`` is the file of the network and that of its heads. CheckpointError names a file that is damaged,
    or of something else.
    """
    if lpips is None and fid is None:
        return None
    where = choose_device(device)
    near = load_lpips(*lpips, where) if lpips else None
    inception = load_inception(fid, where) if fid else None
    files = {}
    if lpips and near:
        files["lpips"] = f"{near.net}: " + ", ".join(_named(path) for path in dict.fromkeys(lpips))
    if fid:
        files["fid"] = _named(fid)
    return PerceptualMetrics(near, inception, files)


def _named(path: Path) -> str:
    return f"{printable(path.name)} (SHA-256 {sha256(path.read_bytes()).hexdigest()})"


@dataclass(slots=True)
class Seen:
    """What the networks have seen of one model on one corpus."""

    by: PerceptualMetrics
    sides: dict[str, Gaussian] = field(default_factory=lambda: {side: Gaussian() for side in SIDES})

    def add(self, given: Batch, made: Batch, target: Batch) -> list[tuple[Means, Means]]:
        """Count N x H x W x 3 images; return the scores of each, and those of doing nothing."""
        if self.by.inception:
            for side, images in zip(SIDES, (given, made, target), strict=True):
                self.sides[side].add(self.by.inception.features(images))
        if self.by.lpips is None:
            return [({}, {}) for _ in made]
        scores, nothing = (self.by.lpips.distances(images, target) for images in (made, given))
        return [
            ({"lpips": float(a)}, {"lpips": float(b)}) for a, b in zip(scores, nothing, strict=True)
        ]

    def of_the_set(self) -> tuple[Means, Means]:
        """Return the scores of all images together; CorpusError where they are too few for any."""
        if self.by.inception is None:
            return {}, {}
        if self.sides["target"].count < 2:
            raise CorpusError("FID", why="needs two images at least", hint="leave --fid out")
        made, nothing = (
            frechet_distance(self.sides[s], self.sides["target"]) for s in ("output", "input")
        )
        return {"fid": made}, {"fid": nothing}

    def notes(self) -> list[str]:
        """Return what a reader of the scores has to know."""
        count = self.sides["target"].count
        if self.by.inception is None or count > FEW_IMAGES:
            return []
        return [
            f"FID of {count:,} images: no more than the {FEW_IMAGES:,} features, so it is far too high; "
            "compare it with values of as many images alone"
        ]

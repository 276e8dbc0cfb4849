"""Perceptual metrics, LPIPS and FID, by networks whose weights the user supplies.

Nothing is downloaded, and no code in the files is run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from img2img_data.core.errors import CorpusError, printable
from img2img_data.images.pixels import Pixels
from img2img_train.metrics.fid import Gaussian, Inception, frechet_distance, load_inception
from img2img_train.metrics.lpips import Lpips, load_lpips
from img2img_train.runs.model import choose_device, cudnn_settings

ScorePair: TypeAlias = tuple[dict[str, float], dict[str, float]]
"""Scores by metric: of outputs, and of inputs."""

FEATURES: Final = 2048
"""Features of Inception; of fewer images the covariances are singular, and FID is too high."""


@dataclass(frozen=True, slots=True)
class PerceptualNetworks:
    """The networks that were asked for; ``files`` names their weights, for the protocol."""

    lpips: Lpips | None = None
    inception: Inception | None = None
    files: dict[str, str] = field(default_factory=dict)


def load_perceptual_networks(
    lpips: tuple[Path, Path] | None, fid: Path | None, device: str
) -> PerceptualNetworks:
    """Return the networks with the weights of the files that are given.

    ``lpips`` is the file of the network and that of its heads. Raises CheckpointError, naming the
    file, if one is damaged or of something else.
    """
    chosen, files = choose_device(device), {}
    distance = load_lpips(*lpips, chosen) if lpips else None
    inception = load_inception(fid, chosen) if fid else None
    if lpips and distance:
        names = ", ".join(_name_and_digest(path) for path in dict.fromkeys(lpips))
        files["lpips"] = f"{distance.net}: {names}"
    if fid:
        files["fid"] = _name_and_digest(fid)
    return PerceptualNetworks(distance, inception, files)


def _name_and_digest(path: Path) -> str:
    return f"{printable(path.name)} (SHA-256 {sha256(path.read_bytes()).hexdigest()})"


@dataclass(slots=True)
class PerceptualScores:
    """The perceptual scores of one model on one corpus, accumulated over batches."""

    networks: PerceptualNetworks
    inputs: Gaussian = field(default_factory=Gaussian)
    outputs: Gaussian = field(default_factory=Gaussian)
    targets: Gaussian = field(default_factory=Gaussian)

    @cudnn_settings()
    def update(self, inputs: Pixels, outputs: Pixels, targets: Pixels) -> list[ScorePair]:
        """Add a batch, N x H x W x 3 each; return the scores of each image, and of its input."""
        inception, lpips = self.networks.inception, self.networks.lpips
        if inception is not None:
            sets = self.inputs, self.outputs, self.targets
            for gaussian, images in zip(sets, (inputs, outputs, targets), strict=True):
                gaussian.update(inception.features(images))
        if lpips is None:
            return [({}, {}) for _ in outputs]
        distances = (lpips.distances(side, targets).tolist() for side in (outputs, inputs))
        pairs = zip(*distances, strict=True)
        return [({"lpips": score}, {"lpips": plain}) for score, plain in pairs]

    def set_scores(self) -> ScorePair:
        """Return the scores of all images together; CorpusError if there are too few images."""
        if self.networks.inception is None:
            return {}, {}
        if self.targets.count < 2:
            raise CorpusError("FID", why="needs at least two images", hint="leave --fid out")
        sides = (self.outputs, self.inputs)
        score, baseline = (frechet_distance(side, self.targets) for side in sides)
        return {"fid": score}, {"fid": baseline}

    def notes(self) -> list[str]:
        """Return the caveats that a reader of the scores needs."""
        return [] if self.networks.inception is None else note_on_few_images(self.targets.count)


def note_on_few_images(count: int) -> list[str]:
    """Return a note for the reader of an FID if its sets are too small for its absolute value."""
    if count > FEATURES:
        return []
    why = f"no more than the {FEATURES:,} features, so it is far too high"
    return [f"FID of {count:,} images: {why}; compare it only with FIDs of as many images"]

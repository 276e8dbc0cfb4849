"""A step's batch in parts, so that a large batch needs the memory of a small one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from img2img_train.objectives.base import Batch

if TYPE_CHECKING:
    from img2img_train.objectives.base import Images


@dataclass(slots=True)
class MicroBatches:
    """The parts of a batch, their shares of it, and what was made of each before any network moved.

    Losses are means over images: those of the parts, times their shares, add up to the batch's, and so do
    their gradients. ``kept`` holds for each part the images of ``forward`` and those of the histories.
    """

    batches: list[Batch]
    shares: list[float]
    kept: list[tuple[Images, Images]] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Batch, count: int) -> MicroBatches:
        """Cut a batch of N into ``count`` parts, at most N, as equal as can be."""
        total = len(batch.input)
        count = min(count, total)
        halves = zip(batch.input.tensor_split(count), batch.target.tensor_split(count), strict=True)
        batches = [Batch(given, target) for given, target in halves]
        return cls(batches, [len(part.input) / total for part in batches])

    @property
    def alone(self) -> bool:
        """Whether the batch goes through whole."""
        return len(self.batches) == 1

    def keep(self, made: Images, past: Images) -> None:
        """Keep what was made of the next part; of several parts without the way it was made."""
        self.kept.append(
            (made if self.alone else {n: image.detach() for n, image in made.items()}, past)
        )

"""Train, score and apply image-to-image models on paired corpora.

>>> import img2img_train as train
>>> run = train.fit("corpora/gaussian", out="runs/unet", net="unet", width=4, epochs=2)
>>> model = train.load(run)
>>> model(photo).shape
(32, 40, 3)
>>> train.evaluate(model, "corpora/gaussian", split="test").images
5

The names in ``__all__`` are public and stable; everything else may change.
"""

from typing import TYPE_CHECKING

from img2img_data.core.lazy import lazy_names

if TYPE_CHECKING:
    from img2img_train.cli.api import evaluate, fit
    from img2img_train.data.pair_dataset import PairDataset
    from img2img_train.evaluation.score import Evaluation
    from img2img_train.inference.function import Model, load
    from img2img_train.training.fit import FitResult

    __version__: str

__all__ = [
    "Evaluation", "FitResult", "Model", "PairDataset", "__version__", "evaluate", "fit", "load",
]  # fmt: skip
_MODULES = {
    "Evaluation": "evaluation.score", "FitResult": "training.fit", "Model": "inference.function",
    "PairDataset": "data.pair_dataset", "evaluate": "cli.api", "fit": "cli.api",
    "load": "inference.function",
}  # fmt: skip
# --help must not wait for torch.
__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__

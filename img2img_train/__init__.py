"""Train, score and apply image-to-image models on paired corpora.

>>> import img2img_train as train
>>> run = train.fit("corpora/gaussian", loss="l2", out="runs/l2", net="unet", width=4, epochs=2)
>>> model = train.load(run)
>>> model(photo).shape
(32, 40, 3)
>>> train.evaluate(model, "corpora/gaussian", split="test").images
5

The names in ``__all__`` are public and stable; everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from img2img_train.cli.api import evaluate, fit
    from img2img_train.data.pair_dataset import PairDataset
    from img2img_train.inference.function import Model, load

    __version__: str

__all__ = ["Model", "PairDataset", "__version__", "evaluate", "fit", "load"]
_MODULES = {
    "Model": "inference.function", "PairDataset": "data.pair_dataset", "evaluate": "cli.api",
    "fit": "cli.api", "load": "inference.function",
}  # fmt: skip


def __getattr__(name: str) -> object:
    # Imported when first used: --help must not wait for torch.
    if name == "__version__":
        return import_module("importlib.metadata").version("img2img")
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

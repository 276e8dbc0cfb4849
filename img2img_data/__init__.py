"""Turn folders of photos into paired corpora.

>>> import img2img_data as data
>>> corpus = data.open_corpus("corpora/gaussian")
>>> pair = corpus["train"][0]
>>> pair.input.shape, pair.target.shape, pair.key, pair.drawn
((32, 40, 3), (32, 40, 3), '000', {'sigma': 3.0})

The names in ``__all__`` are public and stable; everything else may change.
"""

from typing import TYPE_CHECKING

from img2img_data.core.lazy import lazy_names

if TYPE_CHECKING:
    from img2img_data.cli.api import build
    from img2img_data.core.errors import CorpusError, Img2ImgError, UsageError
    from img2img_data.corpus.reader import Corpus, open_corpus
    from img2img_data.corpus.view import ImagePair
    from img2img_data.degradations.base import Degradation
    from img2img_data.degradations.spec import degradation

    __version__: str

__all__ = [
    "Corpus", "CorpusError", "Degradation", "ImagePair", "Img2ImgError", "UsageError",
    "__version__", "build", "degradation", "open_corpus",
]  # fmt: skip
_MODULES = {
    "Corpus": "corpus.reader", "open_corpus": "corpus.reader", "ImagePair": "corpus.view",
    "CorpusError": "core.errors", "Img2ImgError": "core.errors", "UsageError": "core.errors",
    "build": "cli.api", "Degradation": "degradations.base", "degradation": "degradations.spec",
}  # fmt: skip
# --help must not wait for NumPy, OpenCV or pydantic.
__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__

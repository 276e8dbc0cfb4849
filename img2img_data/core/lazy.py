"""Public names of a package that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package, which also knows ``__version__``.

    ``modules`` maps each name to its module, relative to the package. The function raises
    ``AttributeError`` for any other name.
    """

    def get(name: str) -> object:
        if name == "__version__":
            # Imported here: it takes 30 ms, for which no command should wait.
            return import_module("importlib.metadata").version("img2img")
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get

"""Extension of Griffe: the examples in docstrings become blocks of code."""

from __future__ import annotations

from typing import Any

import griffe
from docs_site import fence_doctests


class FenceDoctests(griffe.Extension):
    """Rewrite each docstring before mkdocstrings renders it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Put the lines of ``>>>`` between fences."""
        if obj.docstring:
            obj.docstring.value = fence_doctests(obj.docstring.value)

"""Checks of HTML pages: self-contained, with a content security policy and one script."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(page: str, tag: str = "") -> list[dict[str, str | None]]:
    """Return the attributes of all elements, or of those of a tag."""
    parser = _Elements()
    parser.feed(page)
    return [attributes for name, attributes in parser.found if tag in ("", name)]


def check_self_contained(page: str) -> None:
    """Assert that a page loads nothing and runs only its own script."""
    for attributes in elements(page):
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            link = attributes.get(name)
            # A link to a file beside the page loads nothing.
            beside = name == "href" and re.fullmatch(r"(?!/)[^:]+\.(safetensors|html)", link or "")
            assert link is None or beside or link.startswith(("data:", "#"))
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|url\(|@import""", page)
    policy = next(
        a["content"]
        for a in elements(page, "meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(script) == len(re.findall(r"<script", page)) == 1
    assert f"'sha256-{b64encode(sha256(script[0].encode()).digest()).decode()}'" in str(policy)
    assert str(policy).startswith("default-src 'none'")

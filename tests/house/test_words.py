"""One word for one thing, and the word is the field's.

Each entry maps what is never said to what is said instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_rooms import MODULES, ROOMS, ROOT

# Names in the code: a whole name, or a part of one between underscores or capitals.
NAMES = {
    "picture": "image",
    "pictures": "images",
    "spoil": "degrade",
    "spoiled": "degraded",
    "game": "adversarial objective",
    "judge": "discriminator",
    "judges": "discriminators",
    "judging": "discriminator_loss",
    "verdict": "logits",
    "verdicts": "logits",
    "fooling": "generator_loss",
    "makers": "generators",
    "remembers": "image_pools",
    "usual": "published_defaults",
    "shadow": "ema",
    "loose": "unmatched",
    "refused": "rejected",
    "refusal": "rejection",
    "theirs": "junyanz",
    "told": "reported",
    "said": "printed",
    "colour": "color",
    "grey": "gray",
}
# Whole names alone: inside longer ones they are ordinary English.
WHOLE_NAMES = {
    "made": "output",
    "given": "input",
    "wanted": "target",
    "past": "history",
    "nothing": "input baseline",
    "whole": "all_gather",
    "highest": "all_reduce_max",
    "alone": "is_distributed",
    "leads": "is_main",
    "beside": "local_world_size",
    "way_out": "hint",
}
PHRASES = {
    r"stands? (?:in|under|before)": "is in",
    r"pictures?": "image",
    r"spoil\w*": "degrade",
    r"games?": "GAN, adversarial objective",
    r"judg(?:e|es|ed|ing)": "discriminator",
    r"verdicts?": "logits",
    r"fooling": "generator loss",
    r"doing nothing": "input baseline",
    r"psnr_nothing": "psnr_input",
    r"there and back": "cycle",
    r"brought weights|weights that you bring": "user-supplied weights",
    r"ways? out": "hint",
    r"told of|tells? of": "reported",
    r"passed over": "skipped",
    r"refus(?:e|es|ed|ing|al|als)": "reject",
    r"(?<!there )(?:is|are) no [a-z]+": "is not a",
    r"by heart": "overfitting",
    r"(?:not )?held against": "compared with",
    r"loose (?:files?|ends?|ones?)": "unmatched",
    r"what became less": "lossy conversions",
    r"no riddle": "not supported",
    r"colour\w*": "color",
    r"grey\w*": "gray",
}
PHRASE = re.compile(r"(?<![\w.-])(" + "|".join(PHRASES) + r")(?![\w-])", re.IGNORECASE)
RIDDLE = re.compile(r"(What|Whether|How|Which)\b")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
    *sorted(path for package in ROOMS for path in (ROOT / package).rglob("templates/*")),
]  # fmt: skip


def parts_of(name: str) -> set[str]:
    """Return the words of a name, lower case: snake_case and CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def tokens_of(path: Path) -> Iterator[tokenize.TokenInfo]:
    yield from tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)


def phrases_in(text: str) -> list[str]:
    return [match[0] for match in PHRASE.finditer(text)]


@pytest.mark.parametrize("module", MODULES)
def test_names_are_the_fields(module: str) -> None:
    for token in tokens_of(MODULES[module]):
        if token.type == tokenize.NAME:
            name = token.string.strip("_")
            wrong = parts_of(name) & NAMES.keys()
            wrong |= {name} & WHOLE_NAMES.keys()
            instead = {word: (NAMES | WHOLE_NAMES)[word] for word in wrong}
            assert not wrong, f"line {token.start[0]}: {token.string}; say {instead}"


@pytest.mark.parametrize("module", MODULES)
def test_sentences_use_the_fields_words(module: str) -> None:
    for token in tokens_of(MODULES[module]):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            found = phrases_in(token.string)
            assert not found, f"near line {token.start[0]}: {found}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_use_the_fields_words(page: Path) -> None:
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        assert not phrases_in(line), f"line {number}: {line.strip()}"


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_open_with_a_noun_or_a_verb(module: str) -> None:
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            assert not RIDDLE.match(text), f"{getattr(node, 'name', module)}: {text[:60]}"


def test_a_type_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name.strip("_")].append(module)
            elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
                places[ast.unparse(node.target).strip("_")].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    "text",
    [
        "a picture",
        "No judge sees it",
        "it is no file",
        "there and back 12.31",
        "was passed over",
        "grey",
    ],
)
def test_the_net_catches(text: str) -> None:
    assert phrases_in(text)


@pytest.mark.parametrize(
    "text", ["an image", "the discriminator", "is not a file", "a cycle", "spoken"]
)
def test_the_net_lets_through(text: str) -> None:
    assert not phrases_in(text)

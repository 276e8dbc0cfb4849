"""The dataset card of a corpus, and the rows that Hugging Face ``datasets`` reads.

``datasets.load_dataset(FOLDER)`` finds the splits in the card. It needs columns of equal types in
every split, but drawn parameters, tags and notes differ from row to row: so datasets.jsonl has
columns of fixed types, and each row of metadata.jsonl as text.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import REASONS
from img2img_data.core.files import write_atomically
from img2img_data.core.jsonl import lines_of
from img2img_data.corpus import format as corpus_format

DATASETS_FILE: Final = "datasets.jsonl"
README: Final = "README.md"
EXAMPLES: Final = 3
"""Pairs that a card shows, or images of each domain."""


def write_datasets_rows(folder: Path, temporary: Path) -> None:
    """Write datasets.jsonl of a split from its metadata.jsonl."""
    lines = lines_of(folder / corpus_format.METADATA_FILE)
    rows = (to_datasets_line(json.loads(line), line) for line in lines)
    write_atomically(folder / DATASETS_FILE, rows, temporary, sync=True)


def to_datasets_line(row: Mapping[str, Any], line: bytes) -> bytes:
    """Return the line of datasets.jsonl about a row, whose line in metadata.jsonl is ``line``."""
    text = line.decode().strip()
    names = ("key", *corpus_format.columns_of(row), "domain", "source", "kind", "width", "height")
    return corpus_format.to_json_line({n: row[n] for n in names if n in row} | {"row": text})


def to_card(
    root: Path, sizes: Mapping[str, int], page: Mapping[str, Any], rows_file: str = DATASETS_FILE
) -> bytes:
    """Return README.md, a dataset card: splits, examples, counts, recipe, borders of the blurs.

    ``sizes`` are the numbers of rows of the splits, ``page`` is the content of corpus.json;
    ``rows_file`` names the rows in the folder of a split.
    The card states neither times nor paths of sources, so equal corpora have equal cards.
    """
    from jinja2 import Environment, PackageLoader

    from img2img_data.degradations.registry import DEGRADATIONS

    recipe = {k: v for k, v in page.get("recipe", {}).items() if v is not None}
    # In a pipeline a kind is a key, in a recipe of ``blur`` a value.
    text = str(recipe)
    used = (k for k in DEGRADATIONS if f"'{k}': {{" in text or f"'kind': '{k}'" in text)
    ordered = corpus_format.in_split_order(sizes)
    with closing(lines_of(root / ordered[0] / rows_file)) as lines:
        examples = [*islice(lines, EXAMPLES)]
        if page.get("kind") == "unpaired":  # the rows of domain A come first
            examples += deque(lines, EXAMPLES)
    # ``datasets`` caches a corpus under its folder's name and a hash of the card's YAML: without a
    # digest of the rows it would return another corpus of that name, or this one before it grew.
    digest = blake2b(digest_size=16)
    for name in ordered:
        with (root / name / rows_file).open("rb") as file:
            file_digest(file, lambda: digest)
    content = {
        "digest": digest.hexdigest(),
        "sizes": {name: sizes[name] for name in ordered},
        "rows_file": rows_file,
        "settings": to_yaml(recipe),
        "borders": {kind: border for kind in used if (border := DEGRADATIONS[kind].border)},
        "examples": [*map(json.loads, examples)],
        "reasons": REASONS,
    }
    loader = PackageLoader("img2img_data.corpus")
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    card = environment.get_template("card.md").render({**page, **content})
    return card.encode("utf-8", "backslashreplace") + b"\n"


def to_yaml(recipe: Mapping[str, Any]) -> str:
    """Return the settings in the recipe of a corpus as YAML."""
    import yaml

    hidden = {"command", "license", *corpus_format.SOURCE_ENTRIES}
    shown = {name: value for name, value in recipe.items() if name not in hidden}
    # Lists of numbers in a pipeline take one line each.
    flow = None if "degradation" in shown else False
    return yaml.safe_dump(shown, sort_keys=False, default_flow_style=flow)

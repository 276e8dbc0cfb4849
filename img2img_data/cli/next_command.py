"""The command that follows another one, printed below its summary."""

from __future__ import annotations

from pathlib import Path

from img2img_data.builds.image_folders import SELECTION_FILE
from img2img_data.core.command_line import print_next
from img2img_data.corpus.reader import open_corpus
from img2img_data.exchange.export import EXPORT_FILE
from img2img_data.exchange.webdataset import INDEX_FILE


def print_after(out: Path, shard: object = None) -> None:
    """Print the command that follows by what the folder ``out`` holds.

    A corpus is trained on, a ``shard`` of one merged with the others; images become a corpus. A
    folder of another tool is for that tool.
    """
    name = out.resolve().name
    corpus = Path("corpora", name)
    if (out / INDEX_FILE).is_file():
        print_next("img2img-data", "unpack", out, corpus)
    elif shard:
        print_next("img2img-data", "merge", out, "OTHER_SHARDS", corpus)
    elif (out / SELECTION_FILE).is_file():
        print_next("img2img-data", "blur", out, corpus)
    elif not (out / EXPORT_FILE).is_file():
        unpaired = open_corpus(out, rows=False).kind == "unpaired"
        loss = ["--loss", "cyclegan"] if unpaired else []
        print_next("img2img-train", out, *loss, "--out", Path("runs", name))

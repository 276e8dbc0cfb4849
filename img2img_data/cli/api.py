"""Commands as functions of the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from img2img_data.builds.pairs import BuildSettings
from img2img_data.cli.steps import STEPS, run_step
from img2img_data.core.command_line import Display
from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.degradations.spec import degradation, to_spec


def build(command: str, *folders: os.PathLike[str] | str, **settings: Any) -> Corpus:
    """Run a command that makes a corpus, and open the corpus.

    ``command`` is blank, blur, combine, degrade, edges, grayscale, import, lab, unpack or unpaired.
    ``folders`` are those of the command, the output last, and ``settings`` its options, as
    ``img2img-data blur --help`` lists them. The same call continues an interrupted one; a complete
    corpus is not built again.

    >>> data.build("blur", "photos", "corpora/blurred", kind="gaussian", sigma=3, size=32)
    <paired corpus 'corpora/blurred': train 12>
    >>> noisy = data.degradation("noise", sigma=(1, 20))
    >>> data.build("degrade", "photos", "corpora/noisy", degradation=noisy)["train"][0].drawn.keys()
    dict_keys(['sigma', 'seed'])

    Raises ``UsageError`` for a wrong setting, ``Img2ImgError`` where the command exits with 1.
    """
    commands = ["import", "unpack", *(n for n, s in STEPS.items() if BuildSettings in s.models)]
    if settings.get("dry_run"):
        raise UsageError("option", "dry_run", "would not make a corpus", "leave it out")
    if command not in commands:
        hint = did_you_mean(command, commands)
        raise UsageError("command", command, "does not make a corpus", hint)
    if len(folders) != len(names := STEPS[command].paths):
        raise UsageError("command", command, f"takes {', '.join(names)}, but got {len(folders)}")
    if pipeline := settings.get("degradation"):
        settings["degradation"] = to_spec(degradation(pipeline))
    paths = [Path(folder) for folder in folders]
    with Display() as display:
        report, code = run_step(command, paths, settings, display.report(command), display.line)
    if code:
        why = "is complete, but too many images were rejected or have no counterpart"
        raise Img2ImgError("corpus", paths[-1], why, "\n".join(report.lines()))
    return open_corpus(paths[-1])

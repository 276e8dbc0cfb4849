"""Commands as functions of the package."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from img2img_data.builds.pairs import BuildSettings
from img2img_data.cli.steps import STEPS, run_step
from img2img_data.core.command_line import progress_of
from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.spec import degradation, to_spec


def build(command: str, *folders: os.PathLike[str] | str, **settings: Any) -> Corpus:
    """Run a command that makes a corpus, and open the corpus: ``img2img-data blur`` and the others.

    ``folders`` are those of the command, the output last, and ``settings`` its options. The same
    call continues an interrupted one; a complete corpus is not built again.

    >>> data.build("blur", "photos", "corpora/blurred", kind="gaussian", sigma=3, size=32)
    <paired corpus 'corpora/blurred': train 12>
    >>> noisy = data.degradation("noise", sigma=(1, 20))
    >>> data.build("degrade", "photos", "corpora/noisy", degradation=noisy)["train"][0].drawn.keys()
    dict_keys(['sigma', 'seed'])

    Raises ``UsageError`` for a wrong setting, ``Img2ImgError`` where the command exits with 1.
    """
    makers = {name for name, step in STEPS.items() if BuildSettings in step.models}
    makers |= {"import", "unpack"}
    if command not in makers:
        hint = (
            f"run 'img2img-data {command}'" if command in STEPS else did_you_mean(command, makers)
        )
        raise UsageError("command", command, "is not one that makes a corpus", hint)
    if len(folders) != len(STEPS[command].paths):
        hint = f"it takes {', '.join(STEPS[command].paths)}"
        raise UsageError("command", command, f"was given {len(folders)} folders", hint)
    if settings.get("dry_run"):
        raise UsageError("setting", "dry_run", "makes no corpus", "use the command line")
    if "degradation" in settings:
        value = settings["degradation"]
        pipeline = value if isinstance(value, Degradation) else degradation(value)
        settings["degradation"] = to_spec(pipeline)
    paths, echo = [Path(folder) for folder in folders], partial(print, file=sys.stderr)
    with progress_of(command) as progress:
        report, code = run_step(command, paths, settings, progress, echo)
    if code:
        why = "is complete, but too many images were rejected or have no counterpart"
        raise Img2ImgError("corpus", paths[-1], why, "\n".join(report.lines()))
    return open_corpus(paths[-1])

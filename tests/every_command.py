"""Every command and extra of both programs on tiny images, in one process that notes its sockets.

A command that ends a piece of work names the command that follows, and that one must parse.

``python every_command.py FOLDER`` writes a line for each attempt to reach another machine into
FOLDER/attempts. The backend ``dask`` is left out: it connects to the address that the user names.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Final

LOOKUPS: Final = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
SENDING: Final = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"}
attempts: list[str] = []


def note(event: str, values: tuple[Any, ...]) -> None:
    """Note a look-up or a connection; an audit hook sees those of every library."""
    if event in SENDING and isinstance(values[1], tuple):
        host = values[1][0]
    elif event in LOOKUPS:
        host = values[0]
    else:
        return
    if (event, host) != ("socket.bind", "127.0.0.1"):  # ``serve`` listens there
        attempts.append(f"{event} {values[-1] if event in SENDING else host}")


sys.addaudithook(note)

import click  # noqa: E402
import cv2  # noqa: E402
from conftest import make_photo, write_photos  # noqa: E402
from wiki_list import write_mat  # noqa: E402

from img2img_data.cli import main as data  # noqa: E402
from img2img_data.core.command_line import run_command_line  # noqa: E402
from img2img_train.cli import main as train  # noqa: E402

TINY: Final = "--loss l1 --net resnet-6 --width 4 --batch 2 --epochs 1 --threads 1 --device cpu"
DATA: Final = """
sample samples
select photos chosen --min-side 8 --drop-gray --drop-duplicates --jobs 2
resize photos small --size 16 --jobs 1
wiki wiki faces --jobs 1
blur photos c --kind random-gaussian --size 16 --split train=0.5,val=0.25,test=0.25 --jobs 2
degrade photos noisy --recipe pipeline.yaml --size 16 --jobs 1
combine photos photos pairs --jobs 1
lab photos lab --jobs 1
grayscale photos gray --jobs 1
edges photos edges --jobs 1
blank photos blank --jobs 1
unpaired photos photos two --jobs 1
build recipe.yaml
blur photos parts/1 --shard 1/2 --jobs 1
blur photos parts/2 --shard 2/2 --jobs 1
merge parts/1 parts/2 whole
show c
verify c --leaks
replay c 000 --out again.png
degradations motion --on photos/000.jpg --out motion.png
recipes mixed
schema blur
export c hf --format hf
export c lmdb --format lmdb
export pairs old --format pix2pix
import old 'a corpus'
pack c shards
unpack shards c3
"""
TRAIN: Final = f"""
fit c {TINY} --out r --tensorboard --workers 2 --cache off --degrade gaussian
resume r
report r
schema
evaluate r --on c --out scores --device cpu
translate r photos restored
translate r clip.mp4 restored.mp4
export r m.onnx
export r m.safetensors
export r m.pth
adopt m.pth m2.safetensors
compat --dataroot x --name y --model pix2pix
serve r --port 0 --device cpu --open
"""
VISIT: Final = """
import os, signal, sys, urllib.request
try:
    assert b"img2img" in urllib.request.urlopen(sys.argv[1], timeout=60).read()
finally:
    os.kill(os.getppid(), signal.SIGTERM)
"""
PIPELINE: Final = "degradation:\n  - albumentations: {GaussNoise: {std_range: [0.1, 0.2]}}\n"
RECIPE: Final = "corpus:\n  - blur: {source: photos, out: built, kind: gaussian, jobs: 1}\n"


def write_clip(path: Path, count: int) -> None:
    """Write a video of a few frames."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48)
    )
    for number in range(count):
        writer.write(make_photo(number, 64, 48))
    writer.release()


PROGRAMS: Final = {"img2img-data": data, "img2img-train": train}
WITHOUT_NEXT: Final = {"compat", "degradations", "export", "recipes", "replay", "schema", "serve"}
"""Commands that print something or write a file for another program."""


def run(name: str, words: list[str]) -> None:
    """Run a command; a failure, or a wrong command that is said to follow, ends the process."""
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        code = run_command_line(PROGRAMS[name].group, words, name)
    lines = log.getvalue().splitlines()
    if code != (143 if words[0] == "serve" else 0):
        sys.exit("\n".join([*lines, f"{name} {shlex.join(words)} ended with {code}"]))
    following = [line for line in lines if line.startswith("next: ")]
    if words[0] not in WITHOUT_NEXT and (len(following) != 1 or following != lines[-1:]):
        sys.exit(f"{name} {shlex.join(words)} names no next command: {lines[-3:]}")
    for line in following:
        parse(*shlex.split(line)[1:])


def parse(name: str, *words: str) -> None:
    """Parse a command line as the program does; a usage error is raised."""
    group = PROGRAMS[name].group
    context = group.make_context(name, [*words])
    called, command, rest = group.resolve_command(context, context._protected_args + context.args)
    assert isinstance(command, click.Command)
    command.make_context(called, rest, parent=context)


def main() -> None:
    """Run all commands in the folder, which the arguments name."""
    os.chdir(sys.argv[1])
    del os.environ["ORT_DISABLE_TELEMETRY"]  # set by conftest; the commands have to see to it
    write_photos(Path("photos"), 12)
    write_photos(Path("wiki"), 3)
    write_mat(Path("wiki/wiki.mat"), [f"{n:03}.jpg" for n in range(3)])
    write_clip(Path("clip.mp4"), count=3)
    Path("pipeline.yaml").write_text(PIPELINE)
    Path("recipe.yaml").write_text(RECIPE)
    Path("visit.py").write_text(VISIT)
    # The option --open of ``serve`` starts this as the browser.
    os.environ["BROWSER"] = f"'{sys.executable}' visit.py %s &"
    for cli, name, commands in ((data, "img2img-data", DATA), (train, "img2img-train", TRAIN)):
        words = [shlex.split(line) for line in commands.strip().splitlines()]
        missing = {n for section in cli.SECTIONS.values() for n in section} - {w[0] for w in words}
        if missing:
            sys.exit(f"{name}: no line for {missing}")
        for line in words:
            run(name, line)
    Path("attempts").write_text("".join(f"{line}\n" for line in attempts))


if __name__ == "__main__":
    main()

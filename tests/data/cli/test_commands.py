"""Commands: help with an example first, grouped options, one line for every error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import COMMAND, run
from pydantic import Field

from img2img_data.cli.main import SECTIONS, _catch_signals, group
from img2img_data.cli.steps import STEPS
from img2img_data.core.command_line import EXIT_CODES, ModelCommand, run_command_line
from img2img_data.core.errors import DivergedError, UsageError
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import setting

NAMES = [name for commands in SECTIONS.values() for name in commands]
CORPUS_STEPS = [name for name, step in STEPS.items() if "size" in step.fields() - {"resize"}]


def check_help(text: str, program: str) -> None:
    """Assert that a command's help opens with an example and fits 100 columns."""
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    usage, example = (next(n for n, line in enumerate(lines) if w in line) for w in ("Usage", "Ex"))
    assert example - usage <= 5, "only the first paragraph precedes the example"
    assert lines[example + 1].strip().startswith(program)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_help_opens_with_an_example(name: str, option: str) -> None:
    if option == "--help-all" and name not in STEPS:
        return
    check_help(run(name, option), "img2img-data")


def test_every_step_is_a_command() -> None:
    assert set(STEPS) <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", [n for n in CORPUS_STEPS if n != "resize"])
def test_shared_options_follow_in_groups_of_their_own(name: str) -> None:
    text = run(name, "--help")
    own, corpus, shared = (text.index(f"\n{g}:\n") for g in ("Options", "Corpus", "Run"))
    assert own < corpus < text.rindex("--split ") < shared < text.rindex("--jobs ")


@pytest.mark.usefixtures("own_handlers")
def test_a_signal_that_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _catch_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert callable(signal.getsignal(signal.SIGTERM))


def test_help_is_quick() -> None:
    began = os.times()
    subprocess.run(
        [sys.executable, "-m", "img2img_data", "--help"], capture_output=True, check=True
    )
    # Not the time on the clock, which is that of other programs too.
    assert os.times().children_user - began.children_user < 1, "0.1 s"


def test_exit_codes_are_in_the_help() -> None:
    text = " ".join(run("--help").split())
    assert all(about in text for about in EXIT_CODES.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["blurr"], "error: command 'blurr': unknown; did you mean 'blur'?"),
        (["blur", "a", "b", "--sgima", "3"], "no such option"),
        (["blur", "a", "b", "--size"], "option '--size' requires an argument; see --help"),
        (
            ["blur", "a", "b", "--sigma-min", "1"],
            "'--sigma-min': does not belong to kind 'gaussian'",
        ),
        (["blur", "a", "b", "--bits", "9"], "option '--bits': '9' is unknown; choose one of 16, 8"),
        (["blur", "nowhere", "b"], "folder 'nowhere': no such folder"),
        (["schema", "blurr"], "schema 'blurr': unknown; did you mean 'blur'?"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], message: str) -> None:
    text = run(*argv, code=2)
    assert message in text
    assert text.startswith("error: ")
    assert text.count("\n") == 1


NOT_IMAGES = "not a folder of images; give the folder of the original images"
A_RUN = "'run': is a run, not a corpus; give the corpus that it was trained on"
A_FILE = "'note.txt': is a file, not a folder; check the path"
WRONG_PATHS = {
    "blur corpus out": f"'corpus': is a corpus, {NOT_IMAGES}",
    "select corpus out": f"'corpus': is a corpus, {NOT_IMAGES}",
    "combine photos corpus out": f"'corpus': is a corpus, {NOT_IMAGES}",
    "resize run out": f"'run': is a run, {NOT_IMAGES}",
    "unpaired photos run out": f"'run': is a run, {NOT_IMAGES}",
    **dict.fromkeys(("show run", "verify run", "pack run out", "import run out"), A_RUN),
    "export run out": A_RUN,
    "verify tool": "'tool': is not a corpus; 'img2img-data import' makes one",
    "export tool out": "'tool': is not a corpus; 'img2img-data import' makes one",
    "pack photos out": "'photos': holds images, not pairs; build a corpus from it",
    "import photos out": "'photos': holds images, not pairs; build a corpus from it",
    "replay empty 000": "'empty': contains neither corpus.json nor images in a known layout",
    **dict.fromkeys(("show note.txt", "merge note.txt out", "lab note.txt out"), A_FILE),
    "select photos note.txt": A_FILE,
    "replay corpus 000 --source note.txt": A_FILE,
    "select empty out": "no images in 'empty': nothing to do; check the path",
    "combine photos empty out": "folder 'empty': holds no images; check the path",
    "combine empty photos out --dry-run": "folder 'empty': holds no images; check the path",
    "degradations --on none.jpg": "image 'none.jpg': No such file or directory; check the path",
    "degradations --on empty": "image 'empty': is a pipe, socket, device or folder; check the path",
    "degradations --on photos/a.jpg": "cannot be used: the content is not a known image format",
    "recipes ./site.yaml": "line 1: key 'site_name': unknown; did you mean 'name'?",
    "recipes ./note.txt": "line 1 of recipe 'note.txt': contains bytes that are not UTF-8",
}


@pytest.mark.parametrize("words", WRONG_PATHS)
def test_a_wrong_path_is_one_line_that_says_what_is_there(words: str, tmp_path: Path) -> None:
    for folder in ("empty", "photos", "run", "corpus/train", "tool/train"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("photos/a.jpg", "run/config.json", "run/timing.jsonl", "corpus/corpus.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "tool/train/a.jpg").touch()
    (tmp_path / "note.txt").write_bytes(b"\xff")
    (tmp_path / "site.yaml").write_text("site_name: x\n")
    text = run(*words.split(), cwd=tmp_path, code=2)
    assert WRONG_PATHS[words] in text
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Settings(FrozenModel):
    plain: int = Field(3, ge=1)
    """a number; the long part"""
    hidden: float = setting("Other", 0.5, advanced=True)
    """a rare setting; with more to say"""


def a_command(error: BaseException | None = None) -> click.Command:
    def callback(settings: dict[str, object]) -> None:
        if error is not None:
            raise error
        click.echo(settings)

    return ModelCommand("a", callback=callback, models=lambda: (Settings,))


def test_only_given_options_are_settings() -> None:
    assert CliRunner().invoke(a_command(), ["--plain", "3"]).output == "{'plain': 3}\n"
    assert CliRunner().invoke(a_command(), []).output == "{}\n"


def test_the_first_clause_is_the_short_help() -> None:
    short, full = (CliRunner().invoke(a_command(), [o]).output for o in ("--help", "--help-all"))
    assert "a number  [default: 3]" in short
    assert "long part" not in short
    assert "--hidden" not in short
    assert "a number; the long part  [default: 3]  [>= 1]" in full
    assert "Other:\n  --hidden FLOAT  a rare setting; with more to say" in full


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("folder", "x", "is missing"), 2, "error: folder 'x': is missing"),
        (DivergedError("loss", why="is not finite"), 3, "error: loss: is not finite"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
        (SystemExit(143), 143, "interrupted; run the same command again to continue"),
        (SystemExit(1), 1, ""),
        (
            OSError(28, "No space left on device", "x"),
            1,
            "error: file 'x': No space left on device",
        ),
        (ModuleNotFoundError("no", name="torch"), 2, "error: img2img-train: needs 'torch', which "),
        (MemoryError(), 1, "error: out of memory; "),
        (ValueError("odd"), 1, "error: internal error in test_commands.py, line "),
    ],
)
def test_every_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(a_command(error), []) == code
    text = capsys.readouterr().err.lstrip("\n")  # click ends the line of ^C
    assert text.startswith(line)
    assert text.count("\n") == bool(line)


def test_help_of_a_group_loads_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "load", None)
    assert "deblurring" in run("--help")


STREAMS = {"closed": "2>&-", "full": "2>/dev/full", "all closed": "0<&- 1>&- 2>&-"}
PROGRESS = """
import sys
from img2img_data.core.command_line import Display, run_command_line
import click

@click.command
@click.argument("out", type=click.File("w"))
def work(out):
    with Display() as display:
        display.line("begins")
    out.write("done" * 100_000)
    click.echo("a note", err=True)

sys.exit(run_command_line(work))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize("state", STREAMS)
def test_a_command_works_without_a_reader_of_its_log(state: str, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(PROGRESS)
    line = f"exec '{sys.executable}' work.py out {STREAMS[state]}"
    assert subprocess.run(line, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "out").read_text() == "done" * 100_000, "and nothing else"
    line = f"exec '{sys.executable}' -m img2img_data blur nowhere b {STREAMS[state]}"
    assert subprocess.run(line, shell=True, cwd=tmp_path, check=False).returncode == 2


def test_a_reader_that_goes_away_ends_no_command(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(PROGRESS)
    command = [sys.executable, "work.py", "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(30) == 0


def test_no_plugin_of_pydantic_runs(tmp_path: Path) -> None:
    about = tmp_path / "spy-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pydantic]\nspy = spy\n")
    (tmp_path / "spy.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYDANTIC_DISABLE_PLUGINS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])

    def code_of(*command: str) -> int:
        kept = {"cwd": tmp_path, "env": environment, "capture_output": True}
        return subprocess.run(command, check=False, **kept).returncode

    assert code_of(*COMMAND, "degradations", "gaussian") == 0
    assert not (tmp_path / "ran").exists()
    code_of(sys.executable, "-c", "import pydantic; pydantic.TypeAdapter(int)")
    assert (tmp_path / "ran").exists(), "the plugin cannot be found at all"


@pytest.mark.skipif(sys.platform == "win32", reason="no broken pipes")
@pytest.mark.parametrize("words", ["degradations", "schema recipe", "blur --help-all", "--help"])
def test_a_reader_that_closes_the_output_is_no_error(words: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        kept = {"stdout": pipe, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run([*COMMAND, *words.split()], check=False, **kept)
    assert (done.returncode, done.stderr) == (141, "")


def test_commands_work_without_docstrings() -> None:
    for words in ("degradations", "degradations gaussian", "blur --help"):
        subprocess.run([sys.executable, "-OO", *COMMAND[1:], *words.split()], check=True)


FREEZE_TWICE = """
import gc, weakref
from img2img_data.core.command_line import frozen_imports

class Cycle:
    def __init__(self):
        self.itself = self

before = weakref.ref(Cycle())
for _ in range(2):
    try:
        with frozen_imports():
            assert not gc.isenabled()
            raise ImportError
    except ImportError:
        assert gc.isenabled()
    later = weakref.ref(Cycle())
gc.collect()
assert before() is not None, "it is not searched"
assert later() is None, "what comes after the first block is"
"""


def test_imports_are_frozen_once_in_a_process() -> None:
    subprocess.run([sys.executable, "-c", FREEZE_TWICE], check=True)

"""Help of the training commands: short, grouped, and only the settings that act for a loss."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from img2img_train.cli.main import SECTIONS, group, main
from img2img_train.config import RunConfig, all_fields, fields_of
from img2img_train.objectives.registry import OBJECTIVES

NAMES = [name for commands in SECTIONS.values() for name in commands]
COMMON = RunConfig.model_fields.keys() - {"corpora", "objective"}
GROUPS = ["Data", "Generator", "Optimization", "Validation", "Output", "Runtime"]


def shown(*argv: str) -> str:
    result = CliRunner().invoke(group, list(argv))
    assert result.exit_code == 0, result.output
    return result.output


def options_in(text: str) -> set[str]:
    """Return the names of the options that a help lists."""
    return {m.replace("-", "_") for m in re.findall(r"^  --([a-z0-9-]+)", text, flags=re.M)}


@pytest.mark.parametrize("name", NAMES)
def test_help_opens_with_an_example(name: str) -> None:
    lines = shown(name, "--help").splitlines()
    assert max(map(len, lines)) <= 100
    example = next(n for n, line in enumerate(lines) if line.strip() == "Example:")
    assert example <= 5, "only the first paragraph precedes the example"
    assert "img2img-train" in lines[example + 1]


def test_no_help_imports_torch() -> None:
    # In a process of its own: other tests import torch.
    code = """
import sys
from click.testing import CliRunner
from img2img_train.cli.main import group
for name in sys.argv[1:]:
    assert CliRunner().invoke(group, [name, "--help"]).exit_code == 0, name
    assert "torch" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code, *NAMES], check=True)


def test_help_of_fit_fits_two_screens() -> None:
    text = shown("fit", "--help")
    assert len(text.splitlines()) <= 70
    order = [text.index(f"\n{group}:\n") for group in ["Options", *GROUPS]]
    assert order == sorted(order)
    first = text[order[0] : order[1]]
    most_used = {"recipe", "preset", "loss", "net", "init", "out", "epochs", "batch"}
    assert options_in(first) == {*most_used, "help_all"}
    assert text == shown("fit", "--loss", "charbonnier", "--help")
    assert "--loss NAME --help" in text


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_help_lists_exactly_the_settings_of_a_loss(loss: str) -> None:
    own = OBJECTIVES[loss].model_fields.keys()
    every = {name for model in OBJECTIVES.values() for name in model.model_fields}
    full = shown("fit", f"--loss={loss}", "--help-all")
    assert options_in(full) & every == own
    assert options_in(full) >= COMMON
    short = options_in(shown("corpora/x", "--loss", loss, "--help"))
    advanced = {
        n for n, f in fields_of(loss).items() if dict(f.json_schema_extra or {}).get("advanced")
    }
    assert short & every == own - advanced
    assert not short & advanced


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_help_shows_the_defaults_of_a_loss(loss: str) -> None:
    text = " ".join(shown("fit", "--loss", loss, "--help").split())
    config = RunConfig(corpora="c", loss=loss)
    for name in ("epochs", "batch", "net"):
        value = getattr(config.objective if name == "net" else config, name)
        if value is not None:
            assert re.search(rf"--{name} .*?\[default: {value}\]", text), name


def test_all_settings_are_listed_in_full() -> None:
    text = shown("fit", "--help-all")
    assert options_in(text) >= all_fields().keys() - {"corpora"}
    assert "for --loss cyclegan" in " ".join(text.split())


def test_an_unknown_loss_is_named() -> None:
    result = CliRunner().invoke(group, ["fit", "--loss", "pix2pixx", "--help"])
    assert "did you mean 'pix2pix'" in str(result.exception)


@pytest.mark.parametrize("word", ["evalute", "fti", "exprot"])
def test_a_misspelled_command_is_not_a_corpus(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([word, "x"])
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert re.fullmatch(rf"error: command '{word}': unknown; did you mean '\w+'\?\n", text)


def test_other_words_are_corpora(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"{tmp_path}/evalute", "--dry-run"])
    assert "error: corpus '" in capsys.readouterr().err


WRONG = {
    "evaluate run --on c --batch 0": "--batch",
    "evaluate run --batch 2 --on": "--on",
    "translate run photos out --max-bad 2": "--max-bad",
    "translate run photos out --tile 1": "--tile",
    "export run x.onnx --opset 17": "--opset",
    "serve run --port 70000": "--port",
    "adopt x.pth x.safetensors --dropout 1": "--dropout",
    "resume run --threads -1": "--threads",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_option_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: option '{WRONG[words]}': ")
    assert text.count("\n") == 1


def test_main_returns_after_success(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert "img2img-train" in capsys.readouterr().out

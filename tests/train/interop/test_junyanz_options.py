"""Options of the PyTorch CycleGAN/pix2pix repository: each becomes a setting, or a note says why
not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import write_photos

pytest.importorskip("torch")

from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.cli.main import group
from img2img_train.config import RunConfig, all_fields
from img2img_train.interop import junyanz_options as junyanz
from img2img_train.objectives.registry import CycleGan


def config_of(command: list[str]) -> RunConfig:
    """The configuration that a native command names."""
    values: dict[str, Any] = {"corpora": [command[1]]}
    words = command[2:]
    while words:
        name = words.pop(0)[2:].replace("-", "_")
        values[name] = words.pop(0) if words and not words[0].startswith("--") else True
    return RunConfig(**values)


def translated(text: str) -> tuple[RunConfig, dict[str, str]]:
    """The configuration and the notes, by option, of options behind ``--dataroot d``."""
    command, notes = junyanz.native_command(f"--dataroot d {text}".split())
    return config_of(command), dict(note[2:].split(": ", 1) for note in notes)


def test_the_command_of_the_readme_gives_the_published_run() -> None:
    text = "--dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA"
    command, notes = junyanz.native_command(text.split())
    assert [note.partition(":")[0] for note in notes] == ["--load_size"]
    done = CliRunner().invoke(group, [*command[1:], "--dry-run"])
    assert isinstance(done.exception, Img2ImgError)
    assert "datasets/facades" in str(done.exception)
    config, published = config_of(command), RunConfig(corpora=("c",), loss="pix2pix")
    assert config.objective == published.objective
    assert (config.epochs, config.epochs_decay) == (published.epochs, published.epochs_decay)


def test_each_option_names_a_setting_that_exists() -> None:
    assert set(junyanz.SETTINGS) <= set(junyanz.OPTIONS)
    assert set(junyanz.SETTINGS.values()) <= set(all_fields())


def test_all_settings_of_a_long_command_arrive() -> None:
    config, notes = translated(
        "--model=cycle_gan --netG resnet_6blocks --netD n_layers --n_layers_D 2 --ngf 32 "
        "--lambda_A 5 --lambda_B 5 --lambda_identity 0 --n_epochs 10 --n_epochs_decay 5 --no_flip "
        "--pool_size 7 --load_size 143 --crop_size 128 --gpu_ids 0 --suffix b --max_dataset_size 30"
    )
    objective = config.objective
    assert isinstance(objective, CycleGan)
    assert (objective.net, objective.width, objective.discriminator) == ("resnet-6", 32, "patch-34")
    assert (objective.cycle_weight, objective.identity_weight, objective.pool_size) == (5, 0, 7)
    assert (config.epochs, config.epochs_decay, config.limit) == (15, 5, 30)
    assert (config.load_size, config.crop, config.flip) == (143, 128, False)
    assert config.out == "checkpoints/experiment_name_b"
    assert set(notes) == {"load_size"}


@pytest.mark.parametrize("swapped", [False, True])
def test_layers_count_for_the_discriminator_n_layers_only(swapped: bool) -> None:
    for name, expected in (("n_layers", "patch-286"), ("basic", "patch-70"), ("pixel", "patch-1")):
        words = [f"--netD {name}", "--n_layers_D 5"]
        config, notes = translated(" ".join(reversed(words) if swapped else words))
        assert config.objective.model_dump()["discriminator"] == expected
        assert ("n_layers_D" in notes) == (name != "n_layers")


@pytest.mark.parametrize(
    ("text", "load", "crop", "note"),
    [
        ("", 286, 256, "resizes them to 256"),
        ("--preprocess resize_and_crop --load_size 256", 256, 0, None),
        ("--load_size 542 --crop_size 512", 542, 512, "images of 542 x 542"),
        ("--preprocess crop --crop_size 128", 0, 128, "smaller than --crop"),
        ("--preprocess scale_width_and_crop --load_size 1024 --crop_size 360", 0, 360, "1024"),
        ("--preprocess scale_width --load_size 1024", 0, 0, "width of 1024"),
        ("--preprocess none", 0, 0, "not resized"),
    ],
)
def test_sizes_are_mapped_or_noted(text: str, load: int, crop: int, note: str | None) -> None:
    config, notes = translated(text)
    assert (config.load_size, config.crop, config.jitter, config.flip) == (load, crop, 1, True)
    name = "preprocess" if "preprocess" in text else "load_size"
    assert notes.get(name) is None if note is None else note in notes[name]


def test_norm_and_dropout_default_to_those_of_the_model() -> None:
    for model, net, norm, dropout in (
        ("pix2pix", "resnet_9blocks", "batch", 0.5),
        ("cycle_gan", "unet_256", "instance", 0.0),
        ("pix2pix", "unet_256", "batch", 0.5),
        ("cycle_gan", "resnet_9blocks", "instance", 0.0),
    ):
        config, _ = translated(f"--model {model} --netG {net}")
        spec = config.objective.networks((3, 3))["generator"]
        assert (spec.norm, spec.dropout) == (norm, dropout)
    config, _ = translated("--model pix2pix --netG resnet_9blocks --norm instance --no_dropout")
    spec = config.objective.networks((3, 3))["generator"]
    assert (spec.norm, spec.dropout) == ("instance", 0)


BASE = """
dataroot name gpu_ids checkpoints_dir model input_nc output_nc ngf ndf netD netG n_layers_D norm
init_type init_gain no_dropout dataset_mode direction serial_batches num_threads batch_size
load_size crop_size max_dataset_size preprocess no_flip display_winsize epoch load_iter verbose
suffix use_wandb wandb_project_name"""
TRAIN = """
display_freq display_ncols display_id display_server display_env display_port update_html_freq
print_freq no_html save_latest_freq save_epoch_freq save_by_iter continue_train epoch_count
phase n_epochs n_epochs_decay beta1 lr gan_mode pool_size lr_policy lr_decay_iters"""
TEST = "results_dir aspect_ratio eval num_test model_suffix"
MODELS = "lambda_L1 lambda_A lambda_B lambda_identity"
ALL = f"{BASE} {TRAIN} {TEST} {MODELS}".split()
VALUES = {
    "netD": "pixel", "netG": "unet_128", "norm": "batch", "direction": "BtoA",
    "gan_mode": "vanilla", "lr_policy": "step", "preprocess": "none", "dataset_mode": "single",
    "beta1": "0.4", "lr": "0.1", "gpu_ids": "0,1", "load_size": "512", "crop_size": "128",
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_no_option_is_dropped_silently(name: str) -> None:
    model = "pix2pix" if name == "lambda_L1" else "cycle_gan"
    start = ["--dataroot", "d", "--model", model]
    flag = junyanz.OPTIONS.get(name) is bool
    words = [f"--{name}", *([] if flag else [VALUES.get(name, "3")])]
    if name in ("dataroot", "model"):
        words = []
    plain, notes = junyanz.native_command(start)
    command, more = junyanz.native_command([*start, *words])
    config_of(command)
    assert command != plain or more != notes or not words
    assert all(note.startswith((f"--{name}:", "--load_size:")) for note in more)


DEFAULTS = {"model": "cycle_gan", "direction": "AtoB", "netG": "resnet_9blocks", "netD": "basic",
            "norm": "instance", "gan_mode": "lsgan", "lr_policy": "linear",
            "preprocess": "resize_and_crop", "gpu_ids": "0"}  # fmt: skip
CHOICES = [(name, value) for name, kind in junyanz.OPTIONS.items()
           if not isinstance(kind, type) for value in kind]  # fmt: skip
CHOICES += [("gpu_ids", ids) for ids in ("0", "1", "-1", "0,1")]


@pytest.mark.parametrize(("name", "value"), CHOICES)
def test_no_value_is_dropped_silently(name: str, value: str) -> None:
    plain, notes = junyanz.native_command(["--dataroot", "d"])
    command, more = junyanz.native_command(["--dataroot", "d", f"--{name}", value])
    changed = " ".join(command) != " ".join(plain) or {*notes} != {*more}
    native = " ".join(command[2:])
    same = value == DEFAULTS[name] or (name, value) == ("lr_policy", "lambda")
    assert changed or same, native
    config_of(command)


@pytest.mark.parametrize("model", ["pix2pix", "cycle_gan"])
def test_images_are_resized_and_cropped_as_in_the_repository(model: str, tmp_path: Path) -> None:
    root = tmp_path / "my data"
    for folder in ("train", "val") if model == "pix2pix" else ("trainA", "trainB"):
        write_photos(root / folder, 2, 60, 24)
    command, _ = junyanz.native_command(["--dataroot", str(root), "--model", model])
    done = CliRunner().invoke(group, [*command[1:], "--dry-run"])
    assert done.exit_code == 0, done
    assert "cropped to 256x256, read at 286x286" in done.output


def test_weights_of_a_model_with_batch_norm_are_tested_as_in_the_repository() -> None:
    for model in ("cycle_gan", "pix2pix"):
        assert translated(f"--model {model} --norm batch")[0].test_norm == "batch"


def test_older_names_of_options_are_known() -> None:
    old, new = (translated(f"--{name} 3 --{name}_decay 4")[0] for name in ("niter", "n_epochs"))
    assert (old.epochs, old.epochs_decay) == (new.epochs, new.epochs_decay) == (7, 4)


def test_every_known_option_is_one_of_the_repository() -> None:
    assert set(ALL) == set(junyanz.OPTIONS) | set(junyanz.UNSUPPORTED)


@pytest.mark.parametrize(
    ("text", "option", "note"),
    [
        ("--gan_mode wgangp", "gan_mode", "neither a gradient penalty nor clipped weights"),
        ("--model pix2pix --gan_mode wgangp", "gan_mode", "instance norm"),
        ("--norm none", "norm", "unlike in the original"),
        ("--norm sync_batch", "norm", "share statistics"),
        ("--continue_train", "continue_train", "resumes from the latest checkpoint"),
        ("--save_latest_freq 5", "save_latest_freq", "--checkpoint-seconds"),
        ("--display_id 0", "display_id", "report.html"),
        ("--num_test 50", "num_test", "belongs to test.py"),
        ("--lambda_A 10 --lambda_B 5", "lambda_B", "both cycles"),
        ("--lambda_A 5", "lambda_A", "both cycles"),
        ("--lambda_B 5", "lambda_B", "both cycles"),
        ("--gpu_ids 0,1", "gpu_ids", "--nproc-per-node 2"),
        ("--gpu_ids 3", "gpu_ids", "CUDA_VISIBLE_DEVICES=3"),
        ("--lr_policy cosine", "lr_policy", "rises again"),
        ("--model colorization", "model", "L and ab"),
        ("--model pix2pix --pool_size 5", "pool_size", "not used by pix2pix"),
        ("--model pix2pix --lambda_identity 0.5", "lambda_identity", "not used by pix2pix"),
        ("--model colorization --lambda_A 3", "lambda_A", "not used by pix2pix"),
        ("--lambda_L1 3", "lambda_L1", "not used by cyclegan"),
    ],
)
def test_different_meanings_are_noted(text: str, option: str, note: str) -> None:
    assert note in translated(text)[1][option]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataroot d --netGG x", "--netGG"),
        ("--name x", "--dataroot"),
        ("--dataroot d --model test", r"'test'.*test.py is 'img2img-train translate'"),
        ("--dataroot", "expected one argument"),
        ("--dataroot d --netG unet_512", "unet_512"),
        ("--dataroot d --load_size 128", "--crop_size"),
        ("--dataroot d --load_size big", "--load_size: invalid int value: 'big'"),
        ("--dataroot d --preprocess crp", "--preprocess.*'crp'"),
        ("--dataroot d --n_layers_D 9 --netD n_layers", "--n_layers_D.* 1 to 5"),
        ("--dataroot d --ngf abc", "--ngf.*'abc'"),
        ("--dataroot d --ngf 0", "'--ngf': .* see --width"),
        ("--dataroot d --batch_size -3", "'--batch_size': .*-3"),
        ("--dataroot d --n_epochs 0 --n_epochs_decay 0", "'--n_epochs': .*0.* see --epochs"),
        ("--dataroot d --num_threads -1", "'--num_threads': .*-1"),
        ("--dataroot d --beta1 nan", "'--beta1': "),
        ("--dataroot d --lr 11", "'--lr': .*11"),
        ("--dataroot d --load_size 9 --crop_size 0", "'--crop_size'"),
        ("--dataroot= --name x", "'--dataroot': "),
    ],
)
def test_a_wrong_option_is_named(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        junyanz.native_command(words.split())

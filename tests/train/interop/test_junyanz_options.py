"""Options of the PyTorch CycleGAN/pix2pix repository: each has a counterpart, or a note, or needs none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.cli.main import group
from img2img_train.config import RunConfig, settings
from img2img_train.interop import junyanz_options as theirs
from img2img_train.objectives.cycle import CycleGan


def test_their_options_give_the_published_run() -> None:
    text = "--dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA"
    command, notes = theirs.native_command(text.split())
    assert not notes
    done = CliRunner().invoke(group, [*command[1:], "--dry-run"])
    assert isinstance(done.exception, Img2ImgError)
    assert "datasets/facades" in str(done.exception)
    config = RunConfig(corpora=("c",), loss="pix2pix")
    assert command[command.index("--epochs") + 1] == str(config.epochs)
    assert command[command.index("--epochs-decay") + 1] == str(config.epochs_decay)


@pytest.mark.parametrize("name", theirs.OPTIONS)
def test_each_option_has_a_counterpart_that_exists(name: str) -> None:

    values = {
        "model": "pix2pix",
        "direction": "BtoA",
        "netG": "unet_128",
        "netD": "pixel",
        "norm": "batch",
    }
    values |= {"gan_mode": "wgangp", "no_dropout": ""}
    (setting,) = theirs.OPTIONS[name](values.get(name, "3"))
    assert setting in settings()


def config_of(command: list[str]) -> RunConfig:
    """The configuration that a native command names."""
    values: dict[str, Any] = {"corpora": [command[1]]}
    words = command[2:]
    while words:
        name = words.pop(0)[2:].replace("-", "_")
        values[name] = words.pop(0) if words and not words[0].startswith("--") else True
    return RunConfig(**values)


def test_all_settings_of_a_long_command_arrive() -> None:
    text = (
        "--dataroot d --model=cycle_gan --netG resnet_6blocks --netD n_layers --n_layers_D 2 --ngf 32 "
        "--lambda_A 5 --lambda_identity 0 --n_epochs 10 --n_epochs_decay 5 --no_flip --pool_size 7 "
        "--load_size 143 --crop_size 128 --gpu_ids 0 --suffix b --max_dataset_size 30"
    )
    command, notes = theirs.native_command(text.split())
    config = config_of(command)
    assert (config.objective.net, config.objective.width) == ("resnet-6", 32)
    assert isinstance(config.objective, CycleGan)
    assert (
        config.objective.cycle_weight,
        config.objective.identity_weight,
        config.objective.pool_size,
    ) == (5, 0, 7)
    assert config.objective.discriminator == "patch-34"
    assert (config.epochs, config.epochs_decay, config.limit) == (15, 5, 30)
    assert (config.jitter, config.crop, config.flip) == (143 / 128, 0, False)
    assert config.out == "checkpoints/experiment_name_b"
    assert [n.partition(":")[0] for n in notes] == ["--load_size"]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_layers_of_the_discriminator_count_where_they_do_there(swapped: bool) -> None:
    for judge, wanted in (("n_layers", "patch-286"), ("basic", "patch-70"), ("pixel", "patch-1")):
        words = [("--netD", judge), ("--n_layers_D", "5")]
        flat = [word for both in (reversed(words) if swapped else words) for word in both]
        command, _ = theirs.native_command(["--dataroot", "d", *flat])
        assert command[command.index("--discriminator") + 1] == wanted
    command, _ = theirs.native_command(["--dataroot", "d", "--n_layers_D", "5"])
    assert "--discriminator" not in command


@pytest.mark.parametrize(
    ("text", "jitter", "crop", "noted"),
    [
        ("", 286 / 256, 0, ()),
        ("--preprocess resize_and_crop --load_size 256", 1, 0, ("load_size",)),
        ("--load_size 542 --crop_size 512", 542 / 512, 0, ("load_size",)),
        ("--load_size 1024", 1, 256, ("load_size",)),
        ("--crop_size 250", 286 / 250, 0, ("crop_size",)),
        ("--preprocess crop --crop_size 128", 1, 128, ("preprocess",)),
        (
            "--preprocess scale_width_and_crop --load_size 1024 --crop_size 360",
            1,
            360,
            ("preprocess",),
        ),
        ("--preprocess scale_width --load_size 1024", 1, 0, ("preprocess",)),
        ("--preprocess none", 1, 0, ("preprocess",)),
    ],
)
def test_sizes(text: str, jitter: float, crop: int, noted: tuple[str, ...]) -> None:
    command, notes = theirs.native_command(f"--dataroot d {text}".split())
    config = config_of(command)
    assert (config.jitter, config.crop, config.flip) == (jitter, crop, True)
    assert tuple(n.partition(":")[0][2:] for n in notes) == noted
    assert all(number in notes[0] for number in ("1024",) if number in text)


def test_norm_and_dropout_are_the_models_not_the_networks() -> None:
    for model, net, norm, dropout in (
        ("pix2pix", "resnet_9blocks", "batch", 0.5),
        ("cycle_gan", "unet_256", "instance", 0.0),
        ("pix2pix", "unet_256", "batch", 0.5),
        ("cycle_gan", "resnet_9blocks", "instance", 0.0),
    ):
        command, _ = theirs.native_command(["--dataroot", "d", "--model", model, "--netG", net])
        config = config_of(command)
        spec = config.objective.generator_spec((3, 3))
        assert (spec.norm, spec.dropout) == (norm, dropout)
    text = "--dataroot d --model pix2pix --netG resnet_9blocks --norm instance --no_dropout"
    spec = config_of(theirs.native_command(text.split())[0]).objective.generator_spec((3, 3))
    assert (spec.norm, spec.dropout) == ("instance", 0)


ALL = {
    "base": "dataroot name gpu_ids checkpoints_dir model input_nc output_nc ngf ndf netD netG n_layers_D "
    "norm init_type init_gain no_dropout dataset_mode direction serial_batches num_threads batch_size "
    "load_size crop_size max_dataset_size preprocess no_flip display_winsize epoch load_iter verbose suffix "
    "use_wandb wandb_project_name",
    "train": "display_freq display_ncols display_id display_server display_env display_port update_html_freq "
    "print_freq no_html save_latest_freq save_epoch_freq save_by_iter continue_train epoch_count phase "
    "n_epochs n_epochs_decay beta1 lr gan_mode pool_size lr_policy lr_decay_iters",
    "models": "lambda_L1 lambda_A lambda_B lambda_identity",
    "before 2019": "which_direction which_model_netG which_model_netD nThreads batchSize loadSize fineSize "
    "resize_or_crop niter niter_decay identity no_lsgan",
}
"""Every option of options/base_options.py, options/train_options.py and the models there."""
VALUES = {
    "netD": "n_layers",
    "netG": "unet_128",
    "which_model_netG": "unet_128",
    "which_model_netD": "pixel",
    "norm": "batch",
    "direction": "BtoA",
    "which_direction": "BtoA",
    "gan_mode": "vanilla",
    "lr_policy": "step",
    "preprocess": "none",
    "resize_or_crop": "crop",
    "init_type": "xavier",
    "dataset_mode": "single",
    "phase": "val",
    "name": "x",
    "checkpoints_dir": "y",
    "suffix": "z",
    "beta1": "0.4",
    "lr": "0.1",
    "gpu_ids": "0,1",
    "load_size": "512",
    "loadSize": "300",
    "crop_size": "128",
    "fineSize": "250",
    "input_nc": "1",
    "output_nc": "1",
}


@pytest.mark.parametrize("name", [name for names in ALL.values() for name in names.split()])
def test_no_option_is_dropped_in_silence(name: str) -> None:
    model = "pix2pix" if name == "lambda_L1" else "cycle_gan"
    start = ["--dataroot", "d", "--model", model]
    given = [f"--{name}"] if name in theirs.FLAGS else [f"--{name}", VALUES.get(name, "3")]
    if name in ("dataroot", "model"):
        given = []
    plain, quiet = theirs.native_command(start)
    command, notes = theirs.native_command([*start, *given])
    config_of(command)
    assert not quiet
    heard = command != plain or bool(notes) or name in theirs.SILENT
    assert heard or name in ("dataroot", "model", "n_layers_D")
    with_default = f"--{theirs.OLD_NAMES.get(name, name)}"
    assert all(note.startswith(with_default) for note in notes), notes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dataroot d --netGG x", "netG"),
        ("--name x", "--dataroot"),
        ("--dataroot", "no value"),
        ("--dataroot d --netG unet_512", "unet_512"),
        ("--dataroot d --load_size 128", "--crop_size 256"),
        ("--dataroot d --load_size big", "'big' is no whole number"),
        ("--dataroot d --preprocess crp", "did you mean 'crop'"),
        ("--dataroot d --n_layers_D 9 --netD n_layers", "patch|1, 2"),
        ("--dataroot d --ngf abc", "'--ngf': .*'abc'.* see --width"),
        ("--dataroot d --batch_size -3 --lr hello", "'--batch_size': .*'-3'"),
        ("--dataroot d --lr hello", "'--lr': .*'hello'"),
        ("--dataroot d --n_epochs 0 --n_epochs_decay 0", "'--n_epochs': .*'0'.* see --epochs"),
        ("--dataroot d --niter 0 --niter_decay 0", "'--n_epochs': .*'0'"),
        ("--dataroot d --num_threads -1", "'--num_threads': .*'-1'"),
        ("--dataroot d --beta1 nan", "'--beta1': "),
        ("--dataroot d --crop_size 99999 --preprocess crop", "'--crop_size': .*'99999'"),
        ("--dataroot d --load_size 9 --crop_size 0", "'--crop_size'"),
        ("--dataroot d --ngf=", "'--ngf': has no value"),
        ("--dataroot= --name x", "'--dataroot': "),
    ],
)
def test_a_wrong_option_is_named(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        theirs.native_command(words.split())


def test_an_option_of_another_model_is_left_out_with_a_note() -> None:
    for model, name, loss in (
        ("pix2pix", "lambda_identity", "pix2pix"),
        ("colorization", "lambda_A", "pix2pix"),
        ("cycle_gan", "lambda_L1", "cyclegan"),
    ):
        start = ["--dataroot", "d", "--model", model]
        plain, others = theirs.native_command(start)
        command, notes = theirs.native_command([*start, f"--{name}", "0.5"])
        assert command == plain
        assert [note for note in notes if note not in others] == [
            f"--{name}: {loss} does not use it"
        ]


def test_numbers_are_written_as_the_command_takes_them() -> None:
    text = "--dataroot d --batch_size 3.0 --ngf 1_6 --lr 2e-4 --lambda_A 10"
    command, _ = theirs.native_command(text.split())
    words = dict(itertools.pairwise(command))
    assert [words[f"--{name}"] for name in ("batch", "width", "lr", "cycle-weight")] == [
        "3", "16", "2e-4", "10",
    ]  # fmt: skip

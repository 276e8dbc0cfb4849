"""Options of ``train.py`` of the PyTorch CycleGAN/pix2pix repository, and their counterparts here.

https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix: options/base_options.py,
options/train_options.py, options/test_options.py and ``modify_commandline_options`` of its models.
Each option becomes a setting or a note that says what holds instead; none is dropped silently.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place
from img2img_train.config import RunConfig, config_of
from img2img_train.networks.specs import GeneratorName
from img2img_train.objectives.registry import OBJECTIVES

GENERATORS: Final[dict[str, GeneratorName]] = {
    "unet_256": "unet-256", "unet_128": "unet-128",
    "resnet_9blocks": "resnet-9", "resnet_6blocks": "resnet-6",
}  # fmt: skip
MODELS: Final = {"pix2pix": "pix2pix", "cycle_gan": "cyclegan", "colorization": "pix2pix"}
DATASETS: Final = {"pix2pix": "aligned", "cycle_gan": "unaligned", "colorization": "colorization"}
PATCHES: Final = {1: "patch-16", 2: "patch-34", 3: "patch-70", 4: "patch-142", 5: "patch-286"}
"""Discriminators by number of layers, which counts for ``n_layers`` only."""

NORMS: Final = {"batch": "batch", "instance": "instance", "none": "none", "syncbatch": "batch",
                "sync_batch": "batch", "sync_instance": "instance"}  # fmt: skip

OPTIONS: Final[dict[str, type | Mapping[str, str] | Sequence[str]]] = {
    "dataroot": str, "name": str, "checkpoints_dir": str, "suffix": str, "gpu_ids": str,
    "model": MODELS, "direction": ("AtoB", "BtoA"), "dataset_mode": str, "netG": GENERATORS,
    "netD": {"basic": "patch-70", "n_layers": "patch-70", "pixel": "patch-1"}, "n_layers_D": int,
    "norm": NORMS, "gan_mode": {"vanilla": "vanilla", "lsgan": "lsgan", "wgangp": "wgan-gp"},
    "ngf": int, "ndf": int, "batch_size": int, "lr": float, "beta1": float, "num_threads": int,
    "phase": str, "max_dataset_size": int, "pool_size": int, "lambda_L1": float, "lambda_A": float,
    "lambda_B": float, "lambda_identity": float, "n_epochs": int, "n_epochs_decay": int,
    "lr_policy": ("linear", "lambda", "step", "plateau", "cosine"), "load_size": int,
    "preprocess": ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"),
    "no_flip": bool, "no_dropout": bool, "serial_batches": bool, "verbose": bool, "use_wandb": bool,
    "no_html": bool, "save_by_iter": bool, "continue_train": bool, "eval": bool, "crop_size": int,
    "save_epoch_freq": int,
}  # fmt: skip
"""Types or values of the options; a mapping translates the values."""
RENAMED: Final = {"n_epochs": "niter", "n_epochs_decay": "niter_decay", "num_test": "ntest"}
"""Names of options until 2020, which many tutorials have."""
SETTINGS: Final = {
    "model": "loss", "direction": "direction", "netG": "net", "netD": "discriminator",
    "norm": "norm", "gan_mode": "gan_mode", "ngf": "width", "ndf": "d_width", "batch_size": "batch",
    "lr": "lr", "beta1": "beta1", "num_threads": "workers", "phase": "split", "max_dataset_size":
    "limit", "pool_size": "pool_size", "lambda_L1": "l1_weight", "lambda_A": "cycle_weight",
    "lambda_identity": "identity_weight", "save_epoch_freq": "keep_every",
}  # fmt: skip
"""Options that become one setting; ``_combined`` translates the others."""

_GROUPS: Final = {
    "display_freq display_ncols display_id display_server display_env display_port display_winsize "
    "update_html_freq print_freq no_html verbose use_wandb wandb_project_name":
        "no counterpart; losses are in log.jsonl, samples in report.html (--samples-every)",
    "save_latest_freq save_by_iter":
        "no counterpart; checkpoints are written by time (--checkpoint-seconds), the best is kept",
    "continue_train epoch_count epoch load_iter":
        "no counterpart; the same command resumes from the latest checkpoint of its --out",
    "init_type init_gain": "no counterpart; weights are drawn from N(0, 0.02)",
    "input_nc output_nc": "no counterpart; the corpus determines the channels",
    "results_dir aspect_ratio eval num_test model_suffix":
        "belongs to test.py; see 'img2img-train translate --help'",
    "serial_batches": "no counterpart; images are shuffled by --seed",
    "lr_decay_iters": "no counterpart; the rate falls linearly over --epochs-decay",
}  # fmt: skip
UNSUPPORTED: Final = {name: note for names, note in _GROUPS.items() for name in names.split()}
"""Options without a counterpart, and what holds instead."""


def native_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the native command for options of ``train.py``, and notes about what differs.

    Raises UsageError, with the name of the option, if one is unknown, incomplete or wrong.
    """
    options = vars(_parser().parse_args(words))
    options = {"model": "cycle_gan"} | options
    settings: dict[str, Any] = _model_defaults(options)
    origins = {"load_size": "load_size", "crop": "crop_size", "epochs": "n_epochs",
               "epochs_decay": "n_epochs_decay", "corpora": "dataroot"}  # fmt: skip
    for name in [name for name in options if name in SETTINGS]:
        kind, value = OPTIONS[name], options[name]
        settings[SETTINGS[name]] = kind[value] if isinstance(kind, Mapping) else value
        origins[SETTINGS[name]] = name
    settings |= _combined(options)
    notes = _notes(options, settings)
    known = RunConfig.model_fields | OBJECTIVES[settings["loss"]].model_fields
    for setting in [setting for setting in settings if setting not in known]:
        notes[origins[setting]] = f"not used by {settings['loss']}"
        del settings[setting]
    # Checked here, so that an error names the option that the user typed.
    config_of({"corpora": [options["dataroot"]], **settings}, _JunyanzPlace(origins=origins))
    command = ["img2img-train", options["dataroot"]]
    for setting, value in settings.items():
        command += [f"--{setting.replace('_', '-')}", *([] if value is True else [str(value)])]
    return command, [f"--{name}: {note}" for name, note in notes.items()]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = "see options/ of the repository; its test.py is 'img2img-train translate'"
        raise UsageError("options of train.py", None, message, hint)


def _parser() -> _Parser:
    # A parser like the repository's own, which takes --name=value and unique abbreviations too.
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for name, kind in {**dict.fromkeys(UNSUPPORTED, str), **OPTIONS}.items():
        names = [f"--{name}", *([f"--{RENAMED[name]}"] if name in RENAMED else [])]
        if kind is bool:
            parser.add_argument(*names, action="store_true")
        elif isinstance(kind, type):
            parser.add_argument(*names, type=kind, required=name == "dataroot")
        else:
            parser.add_argument(*names, choices=list(kind))
    return parser


@dataclass(frozen=True)
class _JunyanzPlace(Place):
    """Place of settings that were translated: errors name the original option."""

    origins: Mapping[str, str] = field(default_factory=dict)

    def error(self, keys: Sequence[str], why: str, hint: str = "") -> UsageError:
        origin = self.origins.get(keys[0]) if keys else None
        if origin is None:
            return super().error(keys, why, hint)
        hint = f"see --{keys[0].replace('_', '-')} in 'img2img-train fit --help'"
        return UsageError("option", f"--{origin}", why, hint)


def _model_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    # Norm and dropout have a default per model in the original, per network here: state them where
    # the two differ.
    cycle, net = options["model"] == "cycle_gan", options.get("netG", "")
    if not net.startswith("unet" if cycle else "resnet"):
        return {}
    return {"norm": "instance", "dropout": 0} if cycle else {"norm": "batch", "dropout": 0.5}


def _combined(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that depend on several options."""
    settings: dict[str, Any] = {}
    if options.get("netD") == "n_layers":
        layers = options.get("n_layers_D", 3)
        if layers not in PATCHES:
            why = f"{layers} has no counterpart"
            raise UsageError("option", "--n_layers_D", why, "give 1 to 5")
        settings["discriminator"] = PATCHES[layers]
    if "no_dropout" in options:
        settings["dropout"] = 0
    constant, falling = options.get("n_epochs", 100), options.get("n_epochs_decay", 100)
    settings |= {"epochs": constant + falling, "epochs_decay": falling}
    if options.get("lr_policy") == "cosine":
        settings |= {"decay": "cosine", "epochs_decay": constant + falling}
    load, crop, how = _sizes(options)
    if how == "resize_and_crop":
        settings["load_size"] = load
    if how.endswith("crop") and (how, load) != ("resize_and_crop", crop):
        settings["crop"] = crop
    if "no_flip" not in options:
        settings["flip"] = True
    if options.get("gpu_ids", "").startswith("-"):
        settings["device"] = "cpu"
    folder = options.get("checkpoints_dir", "./checkpoints")
    name = options.get("name", "experiment_name")
    suffix = f"_{options['suffix']}" if options.get("suffix") else ""
    return settings | {"out": f"{folder}/{name}{suffix}".removeprefix("./")}


def _sizes(options: Mapping[str, Any]) -> tuple[int, int, str]:
    load, crop = options.get("load_size", 286), options.get("crop_size", 256)
    how = options.get("preprocess", "resize_and_crop")
    if crop < 1 or (how == "resize_and_crop" and load < crop):
        why = f"is {crop}, but --load_size is {load}"
        raise UsageError("option", "--crop_size", why, "give 1 or more, and at most --load_size")
    return load, crop, how


def _notes(options: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a note for each option that means something else here, by the name of the option."""
    load, crop, how = _sizes(options)
    sizes = {
        "resize_and_crop": f"validation sees images of {load} x {load}; test.py resizes them to "
        f"{crop} x {crop}, 'img2img-train translate' keeps their size",
        "crop": "images smaller than --crop are rejected",
        "scale_width": f"images keep their size: resize them to a width of {load} first",
        "scale_width_and_crop": f"images are cropped only: resize them to a width of {load} first",
        "none": "images are mirrored up to the multiple that the network needs, not resized",
    }
    model, norm, gpus = options["model"], options.get("norm", ""), options.get("gpu_ids", "")
    weights = [options.get(f"lambda_{side}", 10.0) for side in "AB"]
    policy = options.get("lr_policy")
    rules = (
        ("preprocess" if "preprocess" in options else "load_size",
         (how, load) != ("resize_and_crop", crop), sizes[how]),
        ("model", model == "colorization", "needs a corpus of L and ab: img2img-data lab"),
        ("dataset_mode", options.get("dataset_mode", DATASETS[model]) != DATASETS[model],
         "no counterpart; the corpus determines how images are paired"),
        ("lambda_B" if "lambda_B" in options else "lambda_A", weights[0] != weights[1],
         f"both cycles have --cycle-weight; the original has {weights[0]:g} and {weights[1]:g}"),
        ("n_layers_D", "n_layers_D" in options and options.get("netD") != "n_layers",
         "has no effect without --netD n_layers, as in the original"),
        # The original defines the penalty, but no model calls it.
        ("gan_mode", options.get("gan_mode") == "wgangp",
         "the original critic has neither a gradient penalty nor clipped weights; here it has the "
         "penalty, and instance norm in place of batch norm"),
        ("norm", norm == "none", "convolutions then have biases, unlike in the original"),
        ("norm", norm.startswith("sync"), "processes of torchrun always share statistics"),
        ("gpu_ids", gpus.strip("0") and "device" not in settings,
         f"select the GPU by CUDA_VISIBLE_DEVICES={gpus}"),
        ("gpu_ids", len(gpus.split(",")) > 1, "for several GPUs use torchrun --nproc-per-node "
         f"{len(gpus.split(','))} -m img2img_train"),
        ("suffix", "{" in options.get("suffix", ""), "names in braces are not replaced"),
        ("lr_policy", policy in ("step", "plateau"), UNSUPPORTED["lr_decay_iters"]),
        # The original has T_max = n_epochs, but trains n_epochs + n_epochs_decay epochs.
        ("lr_policy", policy == "cosine",
         "the rate falls once over all epochs; in the original it rises again after --n_epochs"),
    )  # fmt: skip
    notes = {name: note for name, applies, note in rules if applies}
    return notes | {name: UNSUPPORTED[name] for name in options if name in UNSUPPORTED}

"""The options of ``train.py`` of the PyTorch CycleGAN/pix2pix repository, and the native command they mean.

https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, options/base_options.py, options/train_options.py
and ``modify_commandline_options`` of its models; names of before 2019 too. Every one has a counterpart, needs
none, or is answered by a note that says what holds instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place, did_you_mean
from img2img_train.config import RunConfig, config_of
from img2img_train.networks.specs import GeneratorName
from img2img_train.objectives.registry import OBJECTIVES

Given: TypeAlias = Mapping[str, str]
"""Their options by name; a flag has an empty value."""
Settings: TypeAlias = dict[str, str]
Option: TypeAlias = Callable[[str], Settings]

GENERATORS: Final[dict[str, GeneratorName]] = {
    "unet_256": "unet-256",
    "unet_128": "unet-128",
    "resnet_9blocks": "resnet-9",
    "resnet_6blocks": "resnet-6",
}
"""Their generators, and ours."""
MODELS: Final = {"pix2pix": "pix2pix", "cycle_gan": "cyclegan", "colorization": "pix2pix"}
MODES: Final = {"pix2pix": "aligned", "cycle_gan": "unaligned", "colorization": "colorization"}
NORMS: Final = {"batch": "batch", "instance": "instance", "none": "none", "syncbatch": "batch"}
PATCHES: Final = {
    "1": "patch-16",
    "2": "patch-34",
    "3": "patch-70",
    "4": "patch-142",
    "5": "patch-286",
}


def _as(name: str, values: Mapping[str, str] | None = None) -> Option:
    """Return the translation of an option that has a counterpart, its value looked up if need be."""

    def translate(value: str) -> Settings:
        return {name: value if values is None else _among(values, value)}

    return translate


def _among(values: Mapping[str, str], value: str) -> str:
    if value not in values:
        raise UsageError(
            "value", value, "has no counterpart here", f"there are {', '.join(values)}"
        )
    return values[value]


OPTIONS: Final[dict[str, Option]] = {
    "model": _as("loss", MODELS),
    "direction": _as("direction", {"AtoB": "AtoB", "BtoA": "BtoA"}),
    "netG": _as("net", GENERATORS),
    "ngf": _as("width"),
    "ndf": _as("d_width"),
    "norm": _as("norm", NORMS),
    "no_dropout": lambda _: {"dropout": "0"},
    "gan_mode": _as("gan_mode", {"vanilla": "vanilla", "lsgan": "lsgan", "wgangp": "wgan-gp"}),
    "batch_size": _as("batch"),
    "lr": _as("lr"),
    "beta1": _as("beta1"),
    "num_threads": _as("workers"),
    "phase": _as("split"),
    "max_dataset_size": lambda value: {} if value == "inf" else {"limit": value},
    "lambda_L1": _as("l1_weight"),
    "lambda_A": _as("cycle_weight"),
    "lambda_identity": _as("identity_weight"),
}
"""Their options with a counterpart here, each by itself; those of ``TOGETHER`` need more than one."""

OLD_NAMES: Final = {
    "which_direction": "direction", "which_model_netG": "netG", "which_model_netD": "netD", "nThreads":
    "num_threads", "batchSize": "batch_size", "loadSize": "load_size", "fineSize": "crop_size",
    "resize_or_crop": "preprocess", "niter": "n_epochs", "niter_decay": "n_epochs_decay", "identity":
    "lambda_identity",
}  # fmt: skip
"""What options were once called."""
FLAGS: Final = frozenset((
    "no_dropout", "no_flip", "serial_batches", "verbose", "no_html", "save_by_iter", "use_wandb",
    "continue_train", "no_lsgan",
))  # fmt: skip
SILENT: Final = frozenset((
    "verbose", "display_freq", "display_ncols", "display_id", "display_server", "display_env", "display_port",
    "display_winsize", "update_html_freq", "print_freq", "no_html", "save_latest_freq", "save_epoch_freq",
    "save_by_iter", "continue_train",
))  # fmt: skip
"""What needs no counterpart: a run is saved, shown and continued by itself."""

JITTERED: Final = 1.5
"""Up to this factor from crop to load size it is jitter; from there on patches are cut of what is larger."""
RATE: Final = "the rate is constant, then falls linearly over --epochs-decay"
GOING_ON: Final = "the same command goes on from the latest checkpoint"
UNLIKE: Final[dict[str, tuple[str, str]]] = {
    "input_nc": ("3", "channels are told from the corpus"),
    "output_nc": ("3", "channels are told from the corpus"),
    "init_type": ("normal", "weights are drawn from N(0, 0.02)"),
    "init_gain": ("0.02", "weights are drawn from N(0, 0.02)"),
    "lr_decay_iters": ("50", RATE),
    "serial_batches": ("-", "images come in an order drawn from the seed"),
    "epoch_count": ("1", GOING_ON),
    "epoch": ("latest", GOING_ON),
    "load_iter": ("0", GOING_ON),
    "use_wandb": (
        "-",
        "losses and samples are in report.html, and by --tensorboard in TensorBoard",
    ),
    "wandb_project_name": (
        "-",
        "losses and samples are in report.html, and by --tensorboard in TensorBoard",
    ),
}
"""Their options without a counterpart: the value by which nothing is lost, and what holds instead."""


# --------------------------------------------------------------------- what takes several of them
def _generator(given: Given) -> Settings:
    """Their norm and dropout belong to the model, ours to the network: say so where they differ."""
    cycle, name = given["model"] == "cycle_gan", given.get("netG", "")
    if not name.startswith("unet" if cycle else "resnet"):
        return {}
    return {"norm": "instance", "dropout": "0"} if cycle else {"norm": "batch", "dropout": "0.5"}


def _discriminator(given: Given) -> Settings:
    """The number of layers counts for ``n_layers`` alone."""
    if given.get("netD") == "n_layers":
        return {"discriminator": _among(PATCHES, given.get("n_layers_D", "3"))}
    names = {"basic": "patch-70", "pixel": "patch-1", "n_layers": "patch-70"}
    return {"discriminator": _among(names, given["netD"])} if "netD" in given else {}


def _epochs(given: Given) -> Settings:
    constant, falling = (_number(given, name, 100) for name in ("n_epochs", "n_epochs_decay"))
    total = str(constant + falling)
    if given.get("lr_policy") == "cosine":
        return {"epochs": total, "decay": "cosine", "epochs_decay": total}
    return {"epochs": total, "epochs_decay": str(falling)}


def _augmentation(given: Given) -> Settings:
    load, crop = _number(given, "load_size", 286), _number(given, "crop_size", 256)
    if crop < 1:
        raise UsageError("option", "--crop_size", "is 0", "give the side of what the network sees")
    flip = {} if "no_flip" in given else {"flip": ""}
    how = given.get("preprocess", "resize_and_crop")
    if how == "resize_and_crop" and load < crop:
        raise UsageError(
            "option", "--load_size", f"is smaller than --crop_size {crop}", "swap them"
        )
    windows = {
        "resize_and_crop": _windows(load, crop),
        "crop": {"crop": str(crop)},
        "scale_width_and_crop": {"crop": str(crop)},
        "scale_width": {},
        "none": {},
    }
    if how not in windows:
        raise UsageError("option", "--preprocess", f"knows no '{how}'", did_you_mean(how, windows))
    return {**windows[how], **flip}


def _windows(load: int, crop: int) -> Settings:
    """Return how images resized to ``load`` are cut to ``crop``: by jitter, or, many times larger, as they
    are.
    """
    if load == crop:
        return {}
    return {"jitter": str(load / crop)} if load <= JITTERED * crop else {"crop": str(crop)}


def _pool(given: Given) -> Settings:
    return (
        {"pool_size": given["pool_size"]}
        if "pool_size" in given and given["model"] == "cycle_gan"
        else {}
    )


def _device(given: Given) -> Settings:
    return {"device": "cpu"} if given.get("gpu_ids", "").startswith("-") else {}


def _adversary(given: Given) -> Settings:
    return {"gan_mode": "vanilla"} if "no_lsgan" in given else {}


def _out(given: Given) -> Settings:
    name = given.get("name", "experiment_name")
    name = f"{name}_{given['suffix']}" if given.get("suffix") else name
    return {"out": f"{given.get('checkpoints_dir', './checkpoints')}/{name}".removeprefix("./")}


TOGETHER: Final[dict[Callable[[Given], Settings], tuple[str, ...]]] = {
    _discriminator: ("netD", "n_layers_D"),
    _pool: ("pool_size",),
    _adversary: ("no_lsgan",),
    _epochs: ("n_epochs", "n_epochs_decay", "lr_policy"),
    _augmentation: ("load_size", "crop_size", "preprocess", "no_flip"),
    _device: ("gpu_ids",),
    _out: ("name", "checkpoints_dir", "suffix"),
}
"""Settings that take several of their options, and these."""
SOURCES: Final = {
    "corpora": "dataroot", "discriminator": "netD", "pool_size": "pool_size", "epochs": "n_epochs", "epochs_decay":
    "n_epochs_decay", "jitter": "load_size", "crop": "crop_size", "flip": "no_flip", "device": "gpu_ids",
    "out": "name",
}  # fmt: skip
"""The one of them that is named where such a setting is wrong."""


@dataclass(frozen=True)
class Theirs(Place):
    """The place of settings that came from their options, whose names they are told of by."""

    sources: Mapping[str, str] = field(default_factory=dict)

    def error(self, keys: Sequence[str], why: str, hint: str = "") -> UsageError:
        """Return the line about their option."""
        if not keys or keys[0] not in self.sources:
            return super().error(keys, why, hint)
        option = "--" + keys[0].replace("_", "-")
        told = f"see {option} in 'img2img-train fit --help'"
        return UsageError("option", f"--{self.sources[keys[0]]}", why, told)


def _number(given: Given, name: str, usual: int) -> int:
    value = given.get(name, str(usual))
    if not value.isdecimal() or not value.isascii():
        raise UsageError("option", f"--{name}", f"'{value}' is no whole number", "give one")
    return int(value)


# ------------------------------------------------------------------------------------------- notes
def _notes(given: Given, unused: Settings) -> list[str]:
    found = unused | {
        name: text for name, (same, text) in UNLIKE.items() if name in given and given[name] != same
    }
    found |= _notes_on_images(given) | _notes_on_the_game(given)
    return [
        f"--{name}: {found[name]}" for name in dict.fromkeys((*given, "model")) if name in found
    ]


def _notes_on_images(given: Given) -> Settings:
    width, crop, found = given.get("load_size", "286"), given.get("crop_size", "256"), Settings()
    how = given.get("preprocess", "resize_and_crop")
    texts = {
        "crop": "patches are cut by --crop; images smaller than that are rejected",
        "scale_width": f"images are used as they are: bring them to a width of {width} before",
        "scale_width_and_crop": f"patches are cut by --crop: bring images to a width of {width} before",
        "none": "images are mirrored up to the sides that the network takes and cut back, not resized",
    }
    if how in texts:
        found["preprocess"] = texts[how]
    elif (crop, width) != ("256", "286"):
        size = crop if int(width) <= JITTERED * int(crop) else width
        text = f"images are used at the size of the corpus: build it with img2img-data and --size {size}"
        found["load_size" if "load_size" in given else "crop_size"] = text
    if given["model"] == "colorization":
        found["model"] = "the corpus has to be one of L and ab: build it with img2img-data lab"
    if given.get("dataset_mode", MODES[given["model"]]) != MODES[given["model"]]:
        found["dataset_mode"] = "what images there are is told from the corpus"
    return found


def _notes_on_the_game(given: Given) -> Settings:
    found = Settings()
    if given.get("lambda_B", given.get("lambda_A", "10")) != given.get("lambda_A", "10"):
        found["lambda_B"] = "one --cycle-weight holds for both ways"
    if given["model"] != "cycle_gan" and given.get("pool_size", "0") != "0":
        found["pool_size"] = f"there is no history of images in {MODELS[given['model']]}"
    if given.get("norm") == "syncbatch":
        found["norm"] = "processes of torchrun share the statistics of batch norm by themselves"
    if "," in given.get("gpu_ids", "").strip(","):
        count = len(given["gpu_ids"].strip(",").split(","))
        found["gpu_ids"] = (
            f"several GPUs take 'torchrun --nproc-per-node {count} -m img2img_train ...'"
        )
    policies = {
        "step": RATE,
        "plateau": RATE,
        "cosine": "the rate falls once, over all epochs, to zero",
    }
    if given.get("lr_policy") in policies:
        found["lr_policy"] = policies[given["lr_policy"]]
    return found


# ----------------------------------------------------------------------------------------- command
def native_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the native command for options of their ``train.py``, and notes on the others.

    UsageError names an option that is unknown, incomplete or missing.
    """
    given = {"model": "cycle_gan"} | _parsed(words)
    if "dataroot" not in given:
        raise UsageError("option", "--dataroot", "is missing", "say where the images are")
    settings, sources = OPTIONS["model"](given["model"]) | _generator(given), dict(SOURCES)
    for name in (name for name in given if name in OPTIONS):
        own = OPTIONS[name](given[name])
        settings, sources = settings | own, sources | dict.fromkeys(own, name)
    for together in TOGETHER:
        settings |= together(given)
    unused, where = _unused(settings, sources), Theirs(sources=sources)
    settings = {name: value for name, value in settings.items() if sources.get(name) not in unused}
    flags = dict.fromkeys((name for name, value in settings.items() if not value), True)
    checked = config_of({"corpora": [given["dataroot"]], **settings, **flags}, where).model_dump()
    command = ["img2img-train", given["dataroot"]]
    for name, value in settings.items():
        shown = str(checked[name]) if type(checked.get(name)) is int else value
        command += ["--" + name.replace("_", "-"), *([shown] if value else [])]
    return command, _notes(given, unused)


def _unused(settings: Settings, sources: Mapping[str, str]) -> Settings:
    """Return a note for each of their options that belongs to another model than the chosen one."""
    loss = settings["loss"]
    known = RunConfig.model_fields.keys() | OBJECTIVES[loss].model_fields.keys()
    return {sources[name]: f"{loss} does not use it" for name in settings if name not in known}


def _parsed(words: Sequence[str]) -> dict[str, str]:
    known = {"dataroot", "lambda_B", "dataset_mode", *OPTIONS, *OLD_NAMES, *UNLIKE, *SILENT, *FLAGS}
    known |= {name for names in TOGETHER.values() for name in names}
    given, rest = dict[str, str](), list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.removeprefix("--")
        if not word.startswith("--") or name not in known:
            raise UsageError("option", word, "is none of their train.py", did_you_mean(name, known))
        if not equals and name not in FLAGS:
            if not rest or rest[0].startswith("--"):
                raise UsageError("option", word, "has no value", "give one")
            value = rest.pop(0)
        name = OLD_NAMES.get(name, name)
        if not value and name in OPTIONS and name not in FLAGS:
            raise UsageError("option", word, "has no value", "give one")
        given[name] = value
    return given

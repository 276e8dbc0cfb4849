"""Cached on the device, in memory or not at all: steps see the same images."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killer, tree
from small_corpus import write_corpus, write_deep, write_domains, write_lab
from small_runs import small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_train.data import dataset, device_cache, loader
from img2img_train.data.device_cache import DeviceCache, check_device_cache, uses_device_cache
from img2img_train.data.loader import Batch
from img2img_train.training import fit as loop
from img2img_train.training.setup import RunData
from img2img_train.training.signals import StoppedBySignal

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SPLITS = {"train": 5, "val": 2}
LINEAR, OTHER = {"gaussian": {"sigma": [0.5, 2]}}, {"noise": {"sigma": [5, 25]}}
CASES: dict[str, dict[str, Any]] = {
    "pairs": {},
    "flipped, to the left": {"flip": True, "direction": "BtoA"},
    "gray": {"info": {"channels": {"input": 1, "target": 3}}},
    "lab": {"make": write_lab},
    "16 bit": {"make": write_deep},
    "degraded": {"degrade": LINEAR, "flip": True},
    "jittered": {"jitter": 1.2, "flip": True},
    "degraded and jittered": {"degrade": LINEAR, "jitter": 1.2, "flip": True},
    "shares": {"degrade": LINEAR, "stored_share": 0.4, "clean_share": 0.4, "jitter": 1.2},
    "shares of 16 bit": {"degrade": LINEAR, "stored_share": 0.6, "make": write_deep},
    "clean": {"clean_share": 0.5},
    "unpaired": {"loss": "cyclegan", "flip": True},
    "two folders": {"loss": "cyclegan", "make": lambda root, splits: write_domains(root, 5)},
}


def data_of(kind: str, root: Path) -> RunData:
    settings = {"loss": "l1", **CASES[kind]}
    make, info = settings.pop("make", None), settings.pop("info", {})
    corpus = make(root, SPLITS) if make else write_corpus(root, SPLITS, size=(16, 16), info=info)
    config = small_config(corpora=corpus, **settings)
    return RunData.open(config)


def seen(data: RunData, store: Any, device: torch.device) -> list[Batch]:
    raws = loader.raw_batches(loader.StepDataset(data.plan, store, data.train), range(1, 6), 0)
    return list(loader.prefetch(raws, device, data.train.channel_layout))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("kind", CASES)
def test_the_same_bits_from_the_device_as_from_memory(kind: str, name: str, tmp_path: Path) -> None:
    device, data = torch.device(name), data_of(kind, tmp_path / "c")
    memory = dataset.cache_images(data.train.for_training(), "ram", 0)
    assert isinstance(memory, dataset.CachedImages)
    on = DeviceCache.of(memory, device)
    gathered = on.gather(data.plan.step(0).indices)
    assert all(isinstance(part, torch.Tensor) and part.device.type == name for part in gathered)
    plain, other = (seen(data, store, device) for store in (memory, on))
    assert len(plain) == 5
    for first, second in zip(plain, other, strict=True):
        assert torch.equal(first.input, second.input)
        assert torch.equal(first.target, second.target)
        assert first.input.stride() == second.input.stride()


@pytest.mark.parametrize("name", DEVICES)
def test_prefetched_batches_are_equal(name: str, tmp_path: Path) -> None:
    device, data = torch.device(name), data_of("degraded and jittered", tmp_path / "c")
    store = dataset.cache_images(data.train.for_training(), "ram", 0)
    steps = loader.StepDataset(data.plan, store, data.train)
    raws = [steps[number] for number in range(7)]
    plain = [loader.to_device(raw, device, data.train.channel_layout) for raw in raws]
    for first, second in zip(
        plain, loader.prefetch(iter(raws), device, data.train.channel_layout), strict=True
    ):
        assert torch.equal(first.input, second.input)
        assert torch.equal(first.target, second.target)


@pytest.mark.parametrize("loss", ["l1", "cyclegan"])
def test_runs_are_equal_and_resume_with_another_cache(loss: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", SPLITS, size=(16, 16))

    def fit(out: str, cache: str, display: Display | None = None) -> dict[str, bytes]:
        settings = {"cache": cache, "checkpoint_seconds": 0, "flip": True, "epochs": 3}
        loop.fit(small_config(loss, corpus, tmp_path / out, **settings), display or Display())
        return {n: content for n, content in tree(tmp_path / out).items() if "checkpoints" not in n}

    expected = fit("ram", "ram")
    assert fit("device", "device") == expected
    for out, first, second in (("there", "device", "off"), ("back", "ram", "device")):
        with pytest.raises(StoppedBySignal, match="at step 3"):
            fit(out, first, Killer("training", 6, signal.SIGTERM))
        assert fit(out, second) == expected


REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "noise": ({"degrade": OTHER}, "this degradation runs on images in main memory"),
    "workers": ({"workers": 2}, "with --workers other processes read"),
    "crop": ({"crop": 16}, "different sizes"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_cached_there_is_one_line(name: str, tmp_path: Path) -> None:
    settings, message = REJECTED[name]
    corpus = write_corpus(tmp_path / "c", SPLITS, size=(32, 32))
    config = small_config("l1", corpus, **settings, cache="device")
    with pytest.raises(
        UsageError, match=f"'--cache': 'device' cannot be used: .*{message}.*give --cache ram"
    ):
        RunData.open(config)
    for cache in ("auto", "ram", "off"):
        RunData.open(config.model_copy(update={"cache": cache}))


def test_auto_uses_the_device_if_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of("pairs", tmp_path / "c")
    size, cuda = data.train.nbytes, torch.device("cuda")
    free = [size * 4]
    monkeypatch.setattr(device_cache.torch.cuda, "mem_get_info", lambda device: (free[0], free[0]))
    assert uses_device_cache("auto", data.train, 0, cuda)
    assert not uses_device_cache("auto", data.train, 2, cuda)
    assert not uses_device_cache("auto", data.train, 0, torch.device("cpu"))
    assert not uses_device_cache("ram", data.train, 0, cuda)
    free[0] -= 4
    assert not uses_device_cache("auto", data.train, 0, cuda)
    assert uses_device_cache("device", data.train, 0, cuda)
    free[0] = size - 1
    with pytest.raises(UsageError, match="GB free; give --cache ram"):
        uses_device_cache("device", data.train, 0, cuda)
    check_device_cache("device", data.train, 0)

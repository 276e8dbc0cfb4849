"""Weights of the PyTorch CycleGAN/pix2pix repository."""

from __future__ import annotations

import os
import pickle
import re
from collections import Counter, OrderedDict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo
from junyanz_networks import original

torch = pytest.importorskip("torch")


from img2img_data.core.errors import CheckpointError, UsageError  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.interop import junyanz_weights as junyanz  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NetworkSpec, make_spec  # noqa: E402
from img2img_train.runs.model import LoadedModel, load_generator  # noqa: E402

CPU = torch.device("cpu")


def model_of(spec: NetworkSpec) -> LoadedModel:
    config = RunConfig(corpora=("c",), out="run")
    return LoadedModel(build(spec, 3).eval(), spec, "rgb", 0, config, CPU, Path("m"))


def unet_keys(levels: int) -> set[str]:
    """Names of the nested blocks: convolution 1, norm 2, block 3, and up again 5 and 6."""
    keys, prefix = (
        {"model.model.0.weight", "model.model.3.weight", "model.model.3.bias"},
        "model.model.1.",
    )
    for level in range(1, levels):
        innermost = level == levels - 1
        keys.add(f"{prefix}model.1.weight")
        places = [(3, 4)] if innermost else [(5, 6)]
        norms = [] if innermost else [2]
        for up, norm in places:
            keys.add(f"{prefix}model.{up}.weight")
            norms.append(norm)
        for norm in norms:
            keys |= {
                f"{prefix}model.{norm}.{part}"
                for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            }
        prefix += "model.3."
    return keys


def test_tensors_are_named_as_in_the_unet_of_the_repository(tmp_path: Path) -> None:
    spec = make_spec("unet-256", (3, 3), 4)
    junyanz.export_pth(model_of(spec), tmp_path / "latest_net_G.pth")
    tensors = torch.load(tmp_path / "latest_net_G.pth")
    assert tensors.keys() == unet_keys(8)
    assert len(tensors) == 82
    assert tensors["model.model.1.model.3.model.1.weight"].shape == (16, 8, 4, 4)


def test_tensors_are_named_as_in_the_resnet_of_the_repository(tmp_path: Path) -> None:
    junyanz.export_pth(model_of(make_spec("resnet-9", (3, 3), 4)), tmp_path / "g.pth")
    tensors = torch.load(tmp_path / "g.pth")
    assert len(tensors) == 48
    counts = Counter(re.sub(r"\d+", "N", name) for name in tensors)
    assert counts == {
        "model.N.weight": 6,
        "model.N.bias": 6,
        "model.N.conv_block.N.weight": 18,
        "model.N.conv_block.N.bias": 18,
    }
    assert {
        "model.1.weight",
        "model.10.conv_block.1.weight",
        "model.10.conv_block.5.weight",
    } <= tensors.keys()
    assert {"model.19.weight", "model.22.weight", "model.26.bias"} <= tensors.keys()


SPECS = [
    make_spec("unet-128", (3, 3), 2),
    make_spec("unet-256", (1, 2), 2, dropout=0.25),
    make_spec("unet-128", (3, 3), 3, "instance"),
    make_spec("resnet-6", (3, 1), 4),
    make_spec("resnet-9", (3, 3), 2, "batch", 0.5),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.name}-{s.norm}")
def test_exported_weights_are_imported_again(spec: NetworkSpec, tmp_path: Path) -> None:
    model = model_of(spec)
    junyanz.export_pth(model, tmp_path / "g.pth")
    dropout = spec.dropout if spec.name.startswith("unet") else None
    assert (
        junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors", "BtoA", dropout)
        == spec
    )
    back = load_generator(tmp_path / "m.safetensors", "cpu", dropout=False, norm="running")
    assert back.config.direction == "BtoA"
    side = spec.smallest
    x = torch.rand(1, spec.inputs, side, side) * 2 - 1
    with torch.no_grad():
        assert torch.equal(back.generator(x), model.generator(x))


def test_old_instance_statistics_and_parallel_names_are_skipped(tmp_path: Path) -> None:
    model = model_of(make_spec("resnet-6", (3, 3), 2))
    state = {f"module.{n}": t for n, t in model.generator.state_dict().items()}
    state["module.model.2.num_batches_tracked"] = torch.tensor(1)
    torch.save(state, tmp_path / "g.pth")
    junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")
    image = make_photo(1, 40, 36)[None]
    assert np.array_equal(
        load_generator(tmp_path / "m.safetensors", "cpu").restore(image), model.restore(image)
    )


FORMS = ["plain", "before torch 0.4", "parallel", "checkpoint", "wrapped"]


def as_saved(network: torch.nn.Module, form: str) -> object:
    """The state of a network as a version of torch, or another trainer, saves it."""
    state = network.state_dict()
    if form == "before torch 0.4":
        state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    state = OrderedDict((f"module.{n}" if form == "parallel" else n, t) for n, t in state.items())
    if form == "checkpoint":
        return {"epoch": 3, "state_dict": state, "lr": 2e-4, "note": "best"}
    return {"netG": state} if form == "wrapped" else state


NORMS = ["batch", "instance", "none"]
CASES = [*product(junyanz.GENERATORS, NORMS, [True, False], FORMS[:1])]
CASES += product(["unet_128", "resnet_6blocks"], NORMS, [False], FORMS[1:])


@pytest.mark.parametrize(("net", "norm", "dropout", "form"), CASES)
def test_every_generator_of_the_repository_is_adopted_and_gives_its_outputs(
    net: str, norm: str, dropout: bool, form: str, tmp_path: Path
) -> None:
    network = original(net, norm, dropout, statistics=form == "before torch 0.4")
    torch.save(as_saved(network, form), tmp_path / "g.pth")
    spec = junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")
    assert (spec.name, spec.norm, spec.width) == (junyanz.GENERATORS[net], norm, 2)
    if net.startswith("resnet"):
        assert spec.dropout == (0.5 if dropout else 0)
    model = load_generator(tmp_path / "m.safetensors", "cpu", dropout=False, norm="batch")
    # test.py of the repository normalizes by the image, as in training.
    for module in network.modules():
        module.train(not isinstance(module, torch.nn.Dropout))
    side = 8 if net.startswith("resnet") else int(net[-3:])
    x = torch.rand(1, 3, side, side) * 2 - 1
    with torch.no_grad():
        expected = network(x)
        assert torch.allclose(model.generator(x), expected, atol=1e-6)
    assert expected.std() > 0.01


@pytest.mark.parametrize("net", junyanz.GENERATORS)
def test_channels_that_images_do_not_have_are_rejected(net: str, tmp_path: Path) -> None:
    torch.save(original(net, "batch", channels=(6, 3)).state_dict(), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"g.pth': map 6 channels to 3.*RGB or gray"):
        junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_a_file_of_several_networks_is_rejected_by_their_names(tmp_path: Path) -> None:
    state = original("resnet_6blocks", "instance").state_dict()
    torch.save({"netG_A": state, "netG_B": state}, tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"no finite tensor netG_A.*one network alone"):
        junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")
    torch.save({"ema": state, "state_dict": state}, tmp_path / "g.pth")
    junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")


@pytest.mark.parametrize("dropout", [True, False])
def test_a_dropout_that_the_weights_contradict_is_rejected(dropout: bool, tmp_path: Path) -> None:
    torch.save(original("resnet_6blocks", "batch", dropout).state_dict(), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"or leave --dropout [0.3]+ out"):
        junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m", dropout=0 if dropout else 0.3)
    rate = 0.3 if dropout else 0.0
    assert junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m", dropout=rate).dropout == rate


@pytest.mark.parametrize("net", ["resnet_6blocks", "unet_128"])
def test_weights_without_norm_are_exported_as_they_came(net: str, tmp_path: Path) -> None:
    network = original(net, "none")
    torch.save(network.state_dict(), tmp_path / "g.pth")
    junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")
    model = load_generator(tmp_path / "m.safetensors", "cpu")
    junyanz.export_pth(model, tmp_path / "again.pth")
    network.load_state_dict(torch.load(tmp_path / "again.pth"))
    for name, parameter in model.generator.named_parameters():
        if name.endswith("bias"):
            parameter.data.fill_(1)
    with pytest.raises(UsageError, match=r"--norm none.* has biases"):
        junyanz.export_pth(model, tmp_path / "again.pth")


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("net", junyanz.GENERATORS)
def test_exported_weights_open_in_the_repository(net: str, norm: str, tmp_path: Path) -> None:
    model = model_of(make_spec(junyanz.GENERATORS[net], (3, 3), 2, norm))
    junyanz.export_pth(model, tmp_path / "g.pth")
    dropout = net.startswith("unet")
    original(net, norm, dropout).load_state_dict(torch.load(tmp_path / "g.pth"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch run-by-a-pickle",)


def test_hostile_files_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bomb.pth").write_bytes(pickle.dumps({"model.model.0.weight": Bomb()}))
    torch.save({"model.model.0.weight": Bomb()}, "zipped.pth")
    torch.save({"model.1.weight": torch.full((2, 3, 7, 7), float("nan"))}, "nan.pth")
    torch.save({"some.weight": torch.zeros(3)}, "other.pth")
    torch.save([1, 2], "list.pth")
    Path("text.pth").write_text("no weights")
    for name in ("bomb", "zipped", "nan", "other", "list", "text", "missing"):
        with pytest.raises(CheckpointError, match=f"{name}.pth"):
            junyanz.import_weights(Path(f"{name}.pth"), Path("out.safetensors"))
    assert not Path("run-by-a-pickle").exists()
    assert not Path("out.safetensors").exists()


UNUSUAL = {
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "meta": lambda x: x.to("meta"),
    "quantized": lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8),
    "complex": lambda x: x * 1j,
    "nested": lambda x: torch.nested.as_nested_tensor(list(x)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_are_not_dense_and_real_are_rejected(kind: str, tmp_path: Path) -> None:
    torch.save({"model.1.weight": UNUSUAL[kind](torch.ones(2, 3))}, tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"g.pth': hold no finite tensor model.1.weight"):
        junyanz.import_weights(tmp_path / "g.pth", tmp_path / "m.safetensors")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_errors_never_suggest_to_load_code(tmp_path: Path) -> None:
    """As the messages of torch do (weights_only)."""
    layer = torch.nn.Conv2d(1, 1, 1)
    torch.save(layer, tmp_path / "whole.pth")
    torch.save(layer, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(layer).save(tmp_path / "script.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    (tmp_path / "text.pth").write_text("hello weights")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.pth").write_bytes(b"")
    messages = dict.fromkeys(("whole", "old", "script"), "hold objects other than.*state_dict")
    messages |= {"cut": "or damaged"} | dict.fromkeys(
        ("text", "pickle", "empty"), "not written by torch.save"
    )
    for name, words in messages.items():
        with pytest.raises(CheckpointError, match=words) as error:
            junyanz.import_weights(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")
        assert "weights_only" not in str(error.value), name
    torch.save(
        model_of(SPECS[0]).generator.state_dict(),
        tmp_path / "o",
        _use_new_zipfile_serialization=False,
    )
    assert junyanz.import_weights(tmp_path / "o", tmp_path / "out.safetensors") == SPECS[0]


def test_networks_without_counterpart_are_rejected(tmp_path: Path) -> None:
    for name in ("autoencoder", "encoder-decoder-64"):
        with pytest.raises(UsageError, match="no counterpart"):
            junyanz.export_pth(model_of(make_spec(name, (3, 3), 2)), tmp_path / "g.pth")

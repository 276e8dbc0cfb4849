"""Every network: sizes, padding, initialization, and the published numbers of parameters."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from img2img_data.core.errors import UsageError
from img2img_train.networks.generators import mirror_pad
from img2img_train.networks.layers import InstanceNorm, ReflectionPad, uses_image_statistics
from img2img_train.networks.registry import build, build_on_meta, count_parameters
from img2img_train.networks.specs import (
    NETWORKS,
    DiscriminatorName,
    GeneratorName,
    NetworkSpec,
    Norm,
    make_spec,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATORS = get_args(GeneratorName)
DISCRIMINATORS = get_args(DiscriminatorName)


def test_every_row_is_a_generator_or_a_discriminator() -> None:
    assert list(NETWORKS) == [*GENERATORS, *DISCRIMINATORS]


@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_keep_the_size(name: GeneratorName, norm: Norm) -> None:
    if NETWORKS[name].norm == "none" != norm:
        with pytest.raises(UsageError, match="no norm"):
            make_spec(name, (1, 2), 2, norm)
        return
    spec = make_spec(name, (1, 2), 2, norm)
    side = max(spec.multiple, NETWORKS[name].smallest)
    for height, width in ((side, 2 * side), (2 * side + spec.multiple, side)):
        spec.check_size(height, width)
        output = build(spec, 0)(torch.rand(2, 1, height, width) * 2 - 1)
        assert output.shape == (2, 2, height, width)
        assert float(output.detach().abs().max()) <= 1


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_pad_other_sizes_and_crop_the_output(name: GeneratorName) -> None:
    spec = make_spec(name, (2, 3), 2)
    network, side = build(spec, 0).eval(), spec.smallest
    for height, width in ((side - 1, side), (side, side // 2 + 1), (side + 1, 2 * side), (1, 3)):
        x = torch.rand(1, 2, height, width) * 2 - 1
        filled = np.pad(
            x.numpy(),
            [(0, 0), (0, 0), *((0, spec.padded_side(s) - s) for s in (height, width))],
            "reflect",
        )
        output = network(x)
        assert output.shape == (1, 3, height, width)
        assert torch.equal(output, network(torch.from_numpy(filled))[..., :height, :width])


@pytest.mark.parametrize(("side", "length"), [(1, 7), (2, 9), (3, 4), (3, 16), (16, 16)])
def test_mirror_pad_is_reflection(side: int, length: int) -> None:
    x = torch.arange(2.0 * side).view(1, 2, side)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, length - side)], "reflect")
    assert np.array_equal(mirror_pad(x, 2, length).numpy(), expected)


@pytest.mark.parametrize("width", [1, 3])
def test_padding_of_slices_is_reflection_and_so_is_its_gradient(width: int) -> None:
    pad, x = ReflectionPad(width), torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, 5 + 2 * width, 7 + 2 * width, dtype=torch.float64)
    padded, sliced = pad(x), pad.pad_by_slices(x)
    assert torch.equal(padded, sliced)
    gradients = [torch.autograd.grad((output * weights).sum(), x)[0] for output in (padded, sliced)]
    torch.testing.assert_close(*gradients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_deterministic_on_cuda(name: GeneratorName) -> None:
    net = build(NetworkSpec(name=name, width=4), 0).cuda()
    torch.use_deterministic_algorithms(True)
    try:
        side = max(64, NETWORKS[name].smallest)
        net(torch.randn(2, 3, side, side, device="cuda")).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_take_images_from_the_smallest_size_on(
    name: DiscriminatorName, norm: Norm
) -> None:
    spec, side = make_spec(name, (3, 1), 2, norm), NETWORKS[name].smallest
    spec.check_size(side, side + 1, 1)
    logits = build(spec, 0)(torch.rand(1, 3, side, side + 1))
    assert logits.shape[:2] == (1, 1)
    assert logits.numel() >= 1
    with pytest.raises(UsageError, match=f"at least {side} pixels"):
        spec.check_size(side - 1, side)


@pytest.mark.parametrize("name", [name for name, row in NETWORKS.items() if row.multiple > 1])
def test_sizes_that_do_not_fit_are_named(name: GeneratorName) -> None:
    spec = make_spec(name, (3, 3), 2)
    side, tiny = 2 * spec.smallest, spec.smallest // 3
    spec.check_size(side, side + 1)
    with pytest.raises(
        UsageError,
        match=f"multiple of {spec.multiple}: .*{tiny}x{tiny} .*--size {spec.smallest}, or",
    ) as error:
        spec.check_size(tiny, tiny)
    _, named, other = str(error.value).partition("choose --net ")
    assert bool(named) == (tiny > 8)
    if named:
        make_spec(cast("GeneratorName", other), (3, 3)).check_size(tiny, tiny)


def test_instance_norm_keeps_the_memory_format_of_one_image() -> None:
    for count in (1, 2):
        x = torch.randn(count, 3, 5, 4).to(memory_format=torch.channels_last)
        own, plain = (x.clone().requires_grad_() for _ in range(2))
        output, expected = InstanceNorm(3)(own), torch.nn.InstanceNorm2d(3)(plain)
        torch.testing.assert_close(output, expected)
        output.pow(3).sum().backward()
        expected.pow(3).sum().backward()
        torch.testing.assert_close(own.grad, plain.grad, atol=1e-5, rtol=1e-5)
        assert output.is_contiguous(memory_format=torch.channels_last) == (count == 1)


def test_a_single_value_is_not_normalized() -> None:
    small, deep = (
        make_spec("unet", (3, 3), 4),
        make_spec("unet-64", (3, 3), 4, bottleneck_norm=True),
    )
    for spec, side in ((small, 16), (deep, 64)):
        spec.check_size(side, side, 2)
        with pytest.raises(UsageError, match="a single value"):
            spec.check_size(side, side, 1)
        with pytest.raises(ValueError, match="more than 1 value"):
            build(spec, 0)(torch.rand(1, 3, side, side))
    make_spec("unet-64", (3, 3), 4).check_size(64, 64, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_on_the_seed_alone(name: GeneratorName) -> None:
    spec = make_spec(name, (3, 3), 8)
    state = torch.get_rng_state()
    one, same, other = (build(spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)
    weights = {key: v for key, v in one.items() if v.ndim == 4 and v.numel() > 64}
    he = NETWORKS[name].init == "he"
    if not he:
        weights = {"all": torch.cat([v.flatten() for v in weights.values()])}
    for key, values in weights.items():
        std = (2 / values[0].numel()) ** 0.5 if he else 0.02
        assert float(values.std()) == pytest.approx(0.0 if key == "last.weight" else std, rel=0.4)


@pytest.mark.parametrize("name", ["edsr", "nafnet"])
def test_a_restoration_network_is_small_and_starts_as_the_identity(name: GeneratorName) -> None:
    """Its parameters are as many as the layers of its paper have, counted by hand."""
    network = build(make_spec(name, (3, 3)), 0).eval()
    assert {"edsr": 176_700, "nafnet": 642_732}[name] == count_parameters(network) < 1e6
    x = torch.rand(1, 3, 18, 34) * 2 - 1
    assert torch.equal(network(x), x)
    assert not make_spec(name, (1, 3)).residual


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_restored_pixel_sees_as_far_as_documented(blocks: int) -> None:
    network = build(make_spec("edsr", (1, 1), 4, blocks=blocks), 0)
    torch.nn.init.normal_(network.last.weight)
    x = torch.rand(1, 1, 48, 48, requires_grad=True)
    network(x)[0, 0, 24, 24].backward()
    assert x.grad is not None
    seen, side = x.grad[0, 0].nonzero(), 4 * blocks + 4
    assert seen.min(0).values.tolist() == [24 - side] * 2
    assert seen.max(0).values.tolist() == [24 + side + 1] * 2


# The others halve images down to one pixel, so each pixel sees nearly all of any image.
@pytest.mark.parametrize("name", [n for n in GENERATORS if NETWORKS[n].smallest <= 16])
def test_networks_that_look_at_the_whole_image_say_so(name: GeneratorName) -> None:
    """Where a far corner changes the output, tiles differ from the whole."""
    network = build(make_spec(name, (1, 1), 4), 0).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.rand(1, 1, 16, 512) * 2 - 1
    y = torch.cat([x[..., :-32], -x[..., -32:]], 3)
    with torch.no_grad():
        differs = not torch.equal(network(x)[..., :8], network(y)[..., :8])
    assert differs == uses_image_statistics(network)


@pytest.mark.parametrize(
    ("name", "channels", "millions", "tensors"),
    [
        ("unet-256", (3, 3), 54.414, 82),
        ("unet-128", (3, 3), 41.829, 70),
        ("resnet-9", (3, 3), 11.378, 48),
        ("resnet-6", (3, 3), 7.838, 36),
        ("patch-70", (6, 1), 2.769, 22),
        ("patch-1", (6, 1), 0.009, 9),
    ],
)
def test_parameters_and_tensors_are_as_many_as_published(
    name: GeneratorName, channels: tuple[int, int], millions: float, tensors: int
) -> None:
    network = build_on_meta(make_spec(name, channels, 64))
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert len(network.state_dict()) == tensors


def test_tensors_are_named_as_in_the_published_checkpoints() -> None:
    unet, resnet = (
        build_on_meta(make_spec(name, (3, 3), 64)).state_dict() for name in ("unet-256", "resnet-9")
    )
    assert next(iter(unet)) == "model.model.0.weight"
    assert list(unet)[-2:] == ["model.model.3.weight", "model.model.3.bias"]
    deepest = "model.model." + "1.model." + "3.model." * 6
    assert {f"{deepest}1.weight", f"{deepest}3.weight", f"{deepest}4.running_var"} <= unet.keys()
    assert list(resnet)[:2] == ["model.1.weight", "model.1.bias"]
    assert {
        "model.10.conv_block.1.weight",
        "model.18.conv_block.5.bias",
        "model.26.weight",
    } <= resnet.keys()


@pytest.mark.parametrize("name", [name for name in DISCRIMINATORS if name.startswith("patch-")])
def test_a_logit_sees_a_patch_of_the_named_size(name: DiscriminatorName) -> None:
    patch = int(name.removeprefix("patch-"))
    net = build(make_spec(name, (1, 1), 2, "none"), 0)
    x = torch.rand(1, 1, 2 * patch + 64, 2 * patch + 64, requires_grad=True)
    logits = net(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [patch, patch]


def test_the_global_discriminator_has_one_logit() -> None:
    net = build(make_spec("global", (3, 1), 2), 0)
    assert net(torch.rand(2, 3, 40, 70)).shape == (2, 1, 1, 1)


def test_dropout_is_on_the_three_innermost_levels() -> None:
    layers = list(build(make_spec("unet-256", (3, 3), 2), 0).modules())
    drops = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Dropout)]
    ups = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [sum(up < drop for up in ups) for drop in drops] == [1, 2, 3]
    assert not [
        x
        for x in build(make_spec("resnet-9", (3, 3), 2), 0).modules()
        if isinstance(x, torch.nn.Dropout)
    ]


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("sides", [(64, 64), (33, 50)])
def test_a_residual_network_adds_its_input(name: GeneratorName, sides: tuple[int, int]) -> None:
    plain, residual = (
        build(make_spec(name, (3, 3), 2, residual=r), 0).eval() for r in (False, True)
    )
    x = torch.rand(1, 3, *sides)
    assert torch.equal(residual(x), x + plain(x))


def test_settings_without_effect_on_a_network_are_rejected() -> None:
    with pytest.raises(UsageError, match="1 channels to an output of 2"):
        make_spec("unet", (1, 2), 4, residual=True)
    with pytest.raises(UsageError, match="'autoencoder': has no dropout layers"):
        make_spec("autoencoder", (3, 3), 4, dropout=0.5)
    with pytest.raises(UsageError, match="'resnet-9': has no bottleneck layer"):
        make_spec("resnet-9", (3, 3), 4, bottleneck_norm=True)


def test_absurd_sizes_are_rejected_before_they_take_memory() -> None:
    for name in ("unet-256", "autoencoder"):
        with pytest.raises(UsageError, match="more than 1,073,741,824"):
            build(NetworkSpec(name=name, width=1024))
    for wrong in (
        {"width": 4096},
        {"inputs": 10**6},
        {"dropout": 1.0},
        {"name": "x"},
        {"levels": 99},
    ):
        with pytest.raises(ValidationError):
            NetworkSpec(**{"name": "unet-256", **wrong})


def test_a_spec_of_an_earlier_version_still_means_the_same() -> None:
    old = NetworkSpec.model_validate({"name": "unet", "inputs": 3, "outputs": 3, "width": 8})
    assert (old.norm, old.dropout, old.bottleneck_norm, old.residual) == (
        "batch",
        0.0,
        False,
        False,
    )

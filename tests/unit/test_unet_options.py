"""The options of the U-Net: what each computes, its size, and that all of them tile exactly."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from small_model import write_trained
from torch import Tensor, nn
from torch.nn import functional

from unetflow.geometry import axis_tiles
from unetflow.inference import Model, array_reader, build, logits
from unetflow.losses import cross_entropy, deeply_supervised
from unetflow.models.blocks import normalisation
from unetflow.models.unet.settings import UNetSettings
from unetflow.reading import parse
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.networks import parse_network
from unetflow.tile_plan import choose_tile
from unetflow.training_plan import Fingerprint, plan, step_bytes
from unetflow.transfer import take_over

torch.set_num_threads(1)


@st.composite
def options(draw: st.DrawFn, **fixed: Any) -> UNetSettings:
    """Settings of a small network."""
    dimensions = draw(st.sampled_from([2, 2, 3]))
    choices = {
        "padding": ["valid", "zeros"],
        "normalisation": ["none", "batch", "instance", "group", "layer"],
        "blocks": ["plain", "residual"],
        "widening": ["after", "before"],
        "upsampling": ["transposed", "nearest", "bilinear"],
        "attention": [False, True],
        "deep_supervision": [False, True],
        "filter_size": [3, 1, 5] if dimensions == 2 else [3, (1, 3, 3)],
        "pool_size": [2, 3, 4, ((2, 2), (4, 4))]
        if dimensions == 2
        else [2, (1, 2, 2), ((1, 2, 2), (2, 2, 2))],
    }
    chosen = {name: draw(st.sampled_from(of)) for name, of in choices.items()} | fixed
    depth = 2 if chosen["pool_size"] != 2 or dimensions == 3 else draw(st.sampled_from([2, 3]))
    if chosen["pool_size"] == 3 and (chosen["attention"] or chosen["upsampling"] == "bilinear"):
        chosen["pool_size"] = 4
    # Of two channels hardly anything but their order is left by layer normalisation.
    width = 8 if chosen["normalisation"] == "layer" else 2
    return UNetSettings(dimensions=dimensions, width=width, depth=depth, **chosen)


def as_trained(settings: UNetSettings, channels: int = 1, classes: int = 2) -> nn.Module:
    """A network in double precision for prediction, whose every value matters."""
    torch.manual_seed(0)
    network = build(settings, channels, classes).double().eval()
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(values, 0.5, 2)
        elif name.endswith(("bias", "running_mean")):
            nn.init.normal_(values, std=0.1)
    return network


# -------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("options", [{"padding": "zeros"}, {"filter_size": 1}])
@pytest.mark.parametrize("normalisation", ["none", "batch", "instance", "group", "layer"])
def test_a_patch_of_one_sample_at_the_deepest_level_is_refused_where_torch_does(
    normalisation: str, options: dict[str, Any]
) -> None:
    settings = UNetSettings(width=2, depth=2, normalisation=normalisation, **options)
    for tile in ((4, 4), (4, 8), (8, 4), (8, 8)):
        alone = tile == (4, 4) and normalisation in ("batch", "instance")
        with pytest.raises(ValueError, match="Expected more") if alone else nullcontext():
            build(settings, 1, 2).train()(torch.zeros(1, 1, *tile))
        rule = r"patches\.tile must leave several .* which leaves one; set 8 or more"
        with pytest.raises(ValueError, match=rule) if alone else nullcontext():
            ExperimentSettings(
                dataset="any",
                intensity={"source": "image"},
                model=settings,
                patches={"tile": tile},
                predict={"tile": 48},
            )


@pytest.mark.parametrize("normalisation", ["batch", "instance"])
def test_patches_of_valid_convolutions_leave_several_samples(normalisation: str) -> None:
    settings = UNetSettings(width=2, depth=2, normalisation=normalisation)
    smallest = [axis.smallest_tile for axis in settings.geometry]
    settings.check_patch(smallest)
    assert build(settings, 1, 2).train()(torch.zeros(1, 1, *smallest)).isfinite().all()


# ---------------------------------------------------------------------------------- geometry


@given(options(), st.data())
@examples(max_examples=25, deadline=None)
def test_outputs_have_the_stated_extents(settings: UNetSettings, data: st.DataObject) -> None:
    steps = [data.draw(st.integers(0, 1)) for _ in settings.geometry]
    pairs = list(zip(settings.geometry, steps, strict=True))
    extents = [axis.minimum + step * axis.divisor for axis, step in pairs]
    with torch.inference_mode():
        output = build(settings, 3, 4).eval()(torch.zeros(2, 3, *extents))
    expected = [n - 2 * axis.frame for n, axis in zip(extents, settings.geometry, strict=True)]
    assert output.shape == (2, 4, *expected)


@given(options(padding="valid", normalisation="none"), st.integers(0, 1))
@examples(max_examples=15, deadline=None)
def test_the_first_output_depends_on_the_first_input_and_the_last_on_the_last(
    settings: UNetSettings, at: int
) -> None:
    """So no smaller halo would do: what is lost on the sides of the input is all needed."""
    network = as_trained(settings)
    for values in network.parameters():
        values.data.abs_()  # so that no unit is dead and no change cancels
    along = settings.dimensions - 1 if at else 0
    extents = [axis.minimum + axis.divisor for axis in settings.geometry]
    pixels = torch.full((1, 1, *extents), 0.01, dtype=torch.float64)
    with torch.inference_mode():
        before = network(pixels).movedim(along + 2, 0)
        for end in (0, -1):
            changed = pixels.clone()
            changed.movedim(along + 2, 0)[end] = 0.02
            assert (network(changed).movedim(along + 2, 0)[end] != before[end]).any()


@given(options(), st.data())
@examples(max_examples=40, deadline=None)
def test_a_tile_equals_its_part_of_the_whole(settings: UNetSettings, data: st.DataObject) -> None:
    network = as_trained(settings)
    along = data.draw(st.sampled_from([0, settings.dimensions - 1]))
    axis = settings.geometry[along]
    extent = axis.divisor * data.draw(st.integers(1, 2 + 60 // axis.divisor))
    start = axis.divisor * data.draw(st.integers(0, extent // axis.divisor - 1))
    stop = data.draw(st.integers(start + 1, extent))
    extents = [of.minimum for of in settings.geometry]
    extents[along] = axis.input_for(extent)
    pixels = torch.randn(1, 1, *extents, dtype=torch.float64)
    (tile,) = axis_tiles(start, stop, extent, axis, None)
    border = [(of.padded, of.padded) for of in settings.geometry]
    border[along] = tile.border
    # What a network of valid convolutions reads begins before the image.
    first, last = tile.read_start + axis.frame, tile.read_stop + axis.frame
    with torch.inference_mode():
        whole = network(pixels).movedim(along + 2, 0)[start:stop]
        part = network(pixels.narrow(along + 2, first, last - first), border)
    found = part.movedim(along + 2, 0)[tile.offset :][: stop - start]
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10 * float(whole.abs().max()))


@given(options())
@examples(max_examples=15, deadline=None)
def test_tiled_prediction_equals_that_of_the_whole_image(settings: UNetSettings) -> None:
    """As it runs, in single precision, where sums are only ever reordered."""
    model = Model(as_trained(settings).float(), settings.geometry, torch.device("cpu"), "32", {})
    shape = (61, 75) if settings.dimensions == 2 else (13, 22, 17)
    pixels = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    region = tuple(slice(0, extent) for extent in shape)
    whole = logits(model, array_reader(pixels), shape, region, None)
    small = [axis.smallest_tile for axis in settings.geometry]
    tiled = logits(model, array_reader(pixels), shape, region, small)
    assert whole.shape == (2, *shape)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5 * float(np.abs(whole).max()))


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_statistics_of_what_is_seen_would_not_tile(kind: str) -> None:
    """What these refrain from: the same network in training differs by whole logits."""
    settings = UNetSettings(width=2, depth=2, dropout=0, normalisation=kind)
    network = as_trained(settings)
    pixels = torch.randn(1, 1, 84, 44, dtype=torch.float64)
    pixels[:, :, :40] += 3
    differences = []
    with torch.no_grad():
        for training in (False, True):
            network.train(training)
            whole, part = network(pixels), network(pixels[:, :, :44])
            differences.append(float((whole[:, :, : part.shape[2]] - part).abs().max()))
    assert differences[0] < 1e-12
    assert differences[1] > 0.1


# -------------------------------------------------------------------------- what is computed


class Written:
    """A padded network of the same weights, written down anew with torch's functions."""

    def __init__(self, settings: UNetSettings, network: nn.Module) -> None:
        self.settings, self.weights = settings, network.state_dict()
        self.depth = settings.depth

    def convolution(self, name: str, x: Tensor, **how: Any) -> Tensor:
        of = functional.conv2d if x.ndim == 4 else functional.conv3d
        return of(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"), **how)

    def normalised(self, name: str, x: Tensor) -> Tensor:
        kind = self.settings.normalisation
        if kind == "none":
            return x
        shape = (1, -1, *[1] * (x.ndim - 2))
        gain, shift = (self.weights[f"{name}.{of}"].reshape(shape) for of in ("weight", "bias"))
        if kind == "layer":
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        else:
            stored = (self.weights[f"{name}.running_{of}"] for of in ("var", "mean"))
            variance, mean = (values.reshape(shape) for values in stored)
        return (x - mean) / (variance + 1e-5).sqrt() * gain + shift

    def block(self, name: str, x: Tensor) -> Tensor:
        residual = self.settings.blocks == "residual"
        layers, second = f"{name}.layers" if residual else name, 2
        if self.settings.normalisation != "none":
            second = 3
        y = self.convolution(f"{layers}.0", x, padding="same")
        y = self.normalised(f"{layers}.1", y).relu()
        y = self.convolution(f"{layers}.{second}", y, padding="same")
        y = self.normalised(f"{layers}.{second + 1}", y)
        if residual and f"{name}.shortcut.0.weight" in self.weights:
            x = self.convolution(f"{name}.shortcut.0", x)
            y = y + self.normalised(f"{name}.shortcut.1", x)
        elif residual:
            y = y + x
        return y.relu()

    def wider(self, x: Tensor, strides: tuple[int, ...], mode: str) -> Tensor:
        linear = mode == "linear"
        kind = ("bilinear" if x.ndim == 4 else "trilinear") if linear else "nearest"
        factors = tuple(float(stride) for stride in strides)
        align = False if linear else None
        return functional.interpolate(x, scale_factor=factors, mode=kind, align_corners=align)

    def raised(self, number: int, x: Tensor, strides: tuple[int, ...]) -> Tensor:
        kind = self.settings.upsampling
        if kind == "transposed":
            of = functional.conv_transpose2d if x.ndim == 4 else functional.conv_transpose3d
            names = (f"up.{number}.weight", f"up.{number}.bias")
            return of(x, *(self.weights[name] for name in names), stride=strides)
        # The convolution comes after the interpolation here, and before it there.
        return self.convolution(
            f"up.{number}", self.wider(x, strides, kind.replace("bilinear", "linear"))
        )

    def __call__(self, x: Tensor) -> Tensor:
        skips, strides = [], self.settings.strides
        pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
        for level in range(self.depth):
            skips.append(x := self.block(f"down.{level}", x))
            x = pool(x, strides[level])
        x = self.block(f"down.{self.depth}", x)
        for number, level in enumerate(reversed(range(self.depth))):
            skip, below = skips[level], x
            x = self.raised(number, x, strides[level])
            if self.settings.attention and level > 0:
                gate = self.convolution(f"gates.{number}.skip", skip, stride=strides[level])
                gate = gate + self.convolution(f"gates.{number}.signal", below)
                score = self.convolution(f"gates.{number}.score", gate.relu())
                skip = skip * self.wider(score.sigmoid(), strides[level], "linear")
            x = self.block(f"merge.{number}", torch.cat([skip, x], 1))
        return self.convolution("classify", x)


@given(options(padding="zeros"))
@examples(max_examples=25, deadline=None)
def test_a_padded_network_equals_one_that_is_written_down_anew(settings: UNetSettings) -> None:
    network = as_trained(settings)
    extents = [2 * axis.divisor for axis in settings.geometry]
    pixels = torch.randn(2, 1, *extents, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels), Written(settings, network)(pixels))


@pytest.mark.parametrize("kind", ["instance", "group"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_some_normalisations_are_of_each_patch_in_training(dimensions: int, kind: str) -> None:
    torch.manual_seed(0)
    settings = UNetSettings(dimensions=dimensions, width=2, depth=1, dropout=0, normalisation=kind)
    network = build(settings, 1, 2).train()
    pixels = torch.randn(3, 1, *[20] * dimensions) * torch.tensor([1.0, 5, 20]).reshape(
        3, *[1] * (dimensions + 1)
    )
    with torch.no_grad():
        together = network(pixels)
        alone = torch.cat([network(one[None]) for one in pixels])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (network.down[0][1].running_var != 1).all(), "statistics are stored"


@pytest.mark.parametrize(("channels", "groups"), [(32, 2), (24, 3), (2, 1)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_group_normalisation_is_torchs_and_stores_the_mean_of_its_statistics(
    dimensions: int, channels: int, groups: int
) -> None:
    torch.manual_seed(0)
    of = normalisation("group", channels, dimensions).double().train()
    x = torch.randn(3, channels, *[5] * dimensions, dtype=torch.float64) * 3 + 1
    reference = nn.GroupNorm(groups, channels).double()
    for module in (of, reference):
        module.load_state_dict(
            {"weight": torch.linspace(1, 2, channels), "bias": torch.linspace(0, 1, channels)},
            strict=False,
        )
    for _ in range(200):  # until nothing is left of what was stored at first
        found = of(x)
    torch.testing.assert_close(found, reference(x))
    parts = x.reshape(3, groups, -1).numpy()
    for stored, expected in (
        (of.running_mean, parts.mean(axis=2).mean(axis=0)),
        (of.running_var, parts.var(axis=2).mean(axis=0)),
    ):
        np.testing.assert_allclose(stored, expected.repeat(channels // groups), rtol=1e-6)
    # At prediction a region of the image is what it is in the whole.
    of.eval()
    torch.testing.assert_close(of(x)[:, :, :2], of(x[:, :, :2]))


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
@pytest.mark.parametrize("widening", ["after", "before"])
def test_features_do_not_grow_from_block_to_block(widening: str, normalisation: str) -> None:
    torch.manual_seed(0)
    spreads = {}
    for blocks in ("plain", "residual"):
        settings = UNetSettings(
            width=16,
            depth=4,
            dropout=0,
            padding="zeros",
            blocks=blocks,
            normalisation=normalisation,
            widening=widening,
        )
        with torch.no_grad():
            spreads[blocks] = build(settings, 1, 2)(torch.randn(2, 1, 64, 64)).std()
    assert 0.2 < spreads["residual"] / spreads["plain"] < 5


def test_new_gates_let_nearly_everything_pass() -> None:
    torch.manual_seed(0)
    network = build(UNetSettings(width=8, depth=3, attention=True, padding="zeros"), 1, 2)
    assert len(network.gates) == 2
    for gate, level in zip(network.gates, (2, 1), strict=True):
        skip, signal = torch.zeros(1, 8 * 2**level, 8, 8), torch.zeros(1, 16 * 2**level, 4, 4)
        shares = gate(skip, signal, [(True, True)] * 2)
        assert shares.shape == (1, 1, 8, 8)
        assert shares.mean().item() == pytest.approx(1 / (1 + math.exp(-3)))


# ------------------------------------------------------------------------- deep supervision


@given(options(deep_supervision=True, normalisation="none", attention=False, blocks="plain"))
@examples(max_examples=15, deadline=None)
def test_coarser_outputs_lie_on_the_pixels_that_they_are_trained_with(
    settings: UNetSettings,
) -> None:
    """A network that only pools: a coarser output is the largest of the pixels that it shows."""
    network = build(settings, 1, 2).double().train()
    network.dropout.p = 0.0
    for name, values in network.named_parameters():
        nn.init.zeros_(values)
        if values.ndim < 3 or name.startswith(("up.", "gates.")):
            continue
        middle = tuple(extent // 2 for extent in values.shape[2:])
        # The first channel of a level passes, of which a merging block finds it among the first.
        nn.init.ones_(values[(0, 0, *middle)])
    extents = [axis.input_for(2 * axis.divisor) for axis in settings.geometry]
    for along in range(settings.dimensions):
        shape = [1] * settings.dimensions
        shape[along] = -1
        ramp = torch.arange(extents[along], dtype=torch.float64).reshape(shape).expand(extents)
        frames = [axis.frame for axis in settings.geometry]
        target = ramp[tuple(slice(n, None if not n else -n) for n in frames)]
        outputs = network(ramp[None, None])
        assert len(outputs) == settings.depth
        assert torch.equal(outputs[0][0, 0], target), "the finest is the image"
        largest: list[Tensor] = []

        def compare(found: Tensor, classes: Tensor, _: Tensor, kept: list[Tensor] = largest) -> Any:
            kept.append(found[:, 0] - classes)
            return found.sum()

        deeply_supervised(compare, outputs, target[None], target[None], settings.coarser)
        for difference, strides in zip(largest[1:], settings.coarser, strict=True):
            stride = strides[along]
            assert difference.numel()
            assert (difference == stride - 1 - stride // 2).all()


@given(st.data())
@examples(max_examples=25, deadline=None)
def test_the_loss_of_coarser_levels_counts_half_as_much_each(data: st.DataObject) -> None:
    """Against loops over the samples, which lie about the same middle as the target."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**30)))
    extents = [data.draw(st.sampled_from([8, 10, 18])) for _ in range(2)]
    target = torch.randint(3, (2, *extents), generator=generator)
    weights = torch.rand((2, *extents), generator=generator)
    outputs, strides = [torch.randn((2, 3, *extents), generator=generator)], []
    expected, total = cross_entropy(outputs[0], target, weights), 1.0
    for level in range(1, data.draw(st.integers(1, 4))):
        strides.append([data.draw(st.sampled_from([1, 2, 3, 4])) for _ in extents])
        places: list[list[tuple[int, int]]] = []  # of a sample among the outputs, and of its pixel
        counts = []
        for extent, stride in zip(extents, strides[-1], strict=True):
            least = extent + data.draw(st.integers(0, 9))
            count = next(n for n in range(99) if n * stride >= least and n * stride % 2 == 0)
            starts = [n * stride - (count * stride - extent) // 2 for n in range(count)]
            places.append(
                [
                    (n, start + stride // 2)
                    for n, start in enumerate(starts)
                    if start >= 0 and start + stride <= extent
                ]
            )
            counts.append(count)
        found = torch.randn((2, 3, *counts), generator=generator)
        losses = weighed = torch.zeros(())
        for (i, row), (j, column) in itertools.product(*places):
            each = functional.cross_entropy(
                found[:, :, i, j], target[:, row, column], reduction="none"
            )
            losses = losses + (each * weights[:, row, column]).sum()
            weighed = weighed + weights[:, row, column].sum()
        expected = expected + losses / weighed / 2**level
        total += 1 / 2**level
        outputs.append(found)
    loss = deeply_supervised(cross_entropy, outputs, target, weights, strides)
    assert loss.item() == pytest.approx(expected.item() / total, rel=1e-5)


def test_a_training_goes_on_from_one_with_or_without_coarser_outputs(tmp_path: Path) -> None:
    for start, goal in itertools.permutations((False, True)):
        settings, other = (
            UNetSettings(width=2, depth=3, deep_supervision=on) for on in (start, goal)
        )
        network = build(settings, 1, 2)
        folder = write_trained(tmp_path / str(start), settings, network)
        later = build(other, 1, 2)
        take_over(later, other, folder, ["a", "b"], "cells", freeze_encoder=False)
        before, after = network.state_dict(), later.state_dict()
        both = {*before} & {*after}
        assert all(torch.equal(before[name], after[name]) for name in both)
        assert {name.split(".")[0] for name in {*before} ^ {*after}} == {"heads"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"normalisation": "instance"}, "model.normalisation instance instead of batch"),
        ({"normalisation": "group"}, "model.normalisation group instead of batch"),
        ({"padding": "zeros"}, "model.padding zeros instead of valid"),
        (
            {"upsampling": "nearest", "pool_size": 3},
            "model.upsampling nearest instead of bilinear, model.pool_size 3 instead of 2",
        ),
        ({"width": 4}, "model.width 4 instead of 2"),
    ],
)
def test_weights_of_the_same_shapes_that_compute_another_thing_are_no_start(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    had = {"width": 2, "depth": 2, "normalisation": "batch", "upsampling": "bilinear"}
    settings, other = UNetSettings(**had), UNetSettings(**had | changes)
    start = write_trained(tmp_path / "start", settings, build(settings, 1, 2))
    with pytest.raises(ValueError, match=rf"must be the same network: got {named}; set model as"):
        take_over(build(other, 1, 2), other, start, ["a"], "cells", freeze_encoder=False)
    free = settings.model_copy(update={"dropout": 0.1, "dropout_at": "convolutions"})
    take_over(build(free, 1, 2), free, start, ["a"], "cells", freeze_encoder=False)


# -------------------------------------------------------------------------------------- size


def count(settings: UNetSettings, channels: int, classes: int, *without: str) -> int:
    with torch.device("meta"):
        network = build(settings, channels, classes)
    return sum(
        values.numel()
        for name, values in network.named_parameters()
        if not any(part in name for part in without)
    )


UNET_3D = {"dimensions": 3, "depth": 3, "width": 32, "widening": "before"}


def test_the_3d_unet_has_the_published_parameters() -> None:
    """19,069,955: a bias for each 3x3x3 convolution and for the last, none for up-convolutions.

    Batch normalisation gives each convolution a shift, which is that bias, and a scale, which was
    not counted.
    """
    plain = UNetSettings(**UNET_3D)
    assert count(plain, 3, 3) - (512 + 256 + 128) == 19_069_955
    normalised = UNetSettings(**UNET_3D, normalisation="batch")
    with torch.device("meta"):
        network = build(normalised, 3, 3)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    scales = sum(module.weight.numel() for module in norms)
    assert scales == 32 + 2 * 64 + 2 * 128 + 2 * 256 + 512 + 2 * (256 + 128 + 64)
    biases = sum(module.bias.numel() for module in network.up)
    assert count(normalised, 3, 3) - scales - biases == 19_069_955


def test_the_3d_unet_has_the_published_layers_and_tile() -> None:
    settings = UNetSettings(**UNET_3D)
    with torch.device("meta"):
        network = build(settings, 3, 3)
        output = network(torch.empty(1, 3, 132, 132, 116))
    channels = [
        [(of.in_channels, of.out_channels) for of in block if isinstance(of, nn.Conv3d)]
        for block in [*network.down, *network.merge]
    ]
    assert channels == [
        [(3, 32), (32, 64)],
        [(64, 64), (64, 128)],
        [(128, 128), (128, 256)],
        [(256, 256), (256, 512)],
        [(256 + 512, 256), (256, 256)],
        [(128 + 256, 128), (128, 128)],
        [(64 + 128, 64), (64, 64)],
    ]
    assert output.shape == (1, 3, 44, 44, 28)
    assert [132 - 2 * axis.halo for axis in settings.geometry] == [44] * 3


def test_the_default_network_has_the_names_of_2015() -> None:
    with torch.device("meta"):
        names = set(build(UNetSettings(), 1, 2).state_dict())
    expected = {
        f"{path}.{level}.{layer}"
        for path, levels in (("down", 5), ("merge", 4))
        for level in range(levels)
        for layer in (0, 2)
    }
    expected |= {"classify", *(f"up.{level}" for level in range(4))}
    assert names == {f"{name}.{of}" for name in expected for of in ("weight", "bias")}


@given(options(), st.integers(1, 3), st.integers(2, 4))
@examples(max_examples=25, deadline=None)
def test_the_parameters_are_those_of_a_count_by_hand(
    settings: UNetSettings, channels: int, classes: int
) -> None:
    taps, normalised = math.prod(settings.kernel), settings.normalisation != "none"
    one = 2 if normalised else 1  # scale and shift, or bias

    def block(inputs: int, middle: int, outputs: int) -> int:
        total = (inputs * taps + one) * middle + (middle * taps + one) * outputs
        if settings.blocks == "residual" and inputs != outputs:
            total += (inputs + one) * outputs
        return total

    factor = 2 if settings.widening == "before" else 1
    widths = [settings.width * 2**level for level in range(settings.depth + 1)]
    total, inputs = (widths[0] * factor + 1) * classes, channels
    for width in widths:
        total += block(inputs, width, width * factor)
        inputs = width * factor
    for level, width in enumerate(widths[:-1]):
        below, here, step = widths[level + 1] * factor, width * factor, settings.strides[level]
        raised = below if factor == 2 else here
        size = math.prod(step) if settings.upsampling == "transposed" else 1
        total += (below * size + 1) * raised + block(here + raised, here, here)
        if settings.attention and level > 0:
            total += here * here * math.prod(step) + (below + 1) * here + here + 1
        if settings.deep_supervision and level > 0:
            total += (here + 1) * classes
    assert count(settings, channels, classes) == total


# ---------------------------------------------------------------------- settings and plans


@given(options())
@examples(max_examples=20, deadline=None)
def test_model_json_tells_the_network(settings: UNetSettings) -> None:
    assert parse_network(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"normalisation": "bach"}, "model.normalisation must be .*; the nearest is batch"),
        ({"attention": True, "depth": 1}, "attention must have a level between .* got depth 1"),
        ({"deep_supervision": True, "depth": 1}, "deep_supervision must have a level between"),
        ({"filter_size": 4}, "filter_size must be odd: got 4"),
        (
            {"filter_size": [3, 5]},
            r"filter_size must be alike along rows and columns: got \[3, 5\]",
        ),
        ({"filter_size": [1, 3, 3]}, "filter_size must be one number or one per axis, 2 of them"),
        ({"pool_size": [1, 2, 2]}, "pool_size must be one number or one per axis, 2 of them"),
        (
            {"dimensions": 3, "pool_size": [2, 5, 5]},
            r"model.pool_size must be less than or equal to 4: got \[2, 5, 5\]",
        ),
        ({"pool_size": 1}, "pool_size must pool along some axis in each of the 2 poolings"),
        ({"pool_size": [[2, 2]]}, "in each of the 2 poolings of depth: got "),
        ({"pool_size": 3, "attention": True}, "pool_size must be 1, 2 or 4 where attention"),
        ({"pool_size": [[2, 2]] * 4, "depth": "auto"}, "model.depth auto must be of one pool_size"),
    ],
)
def test_a_mistake_is_one_line(model: dict[str, Any], message: str) -> None:
    content = {"dataset": "isbi2012", "model": {"depth": 2, **model}, "patches": {"tile": 76}}
    with pytest.raises(ValueError, match=message) as caught:
        parse(ExperimentSettings, content, "F")
    assert "\n" not in str(caught.value)


def test_all_symmetries_of_a_cube_need_a_network_that_is_alike_along_all_axes() -> None:
    content = {
        "dataset": "nuclei3d",
        "model": {"dimensions": 3, "depth": 1, "pool_size": [1, 2, 2], "padding": "zeros"},
        "patches": {"tile": 16},
        "predict": {"orientations": 48, "tile": 32},
    }
    with pytest.raises(ValueError, match=r"orientations must be 16 at most .* differ between axes"):
        ExperimentSettings(**content)
    ExperimentSettings(**content | {"predict": {"orientations": 16, "tile": 32}})


@pytest.mark.parametrize("padding", ["valid", "zeros"])
def test_the_plans_know_the_options(padding: str) -> None:
    of = {"padding": padding, "attention": True, "deep_supervision": True, "blocks": "residual"}
    of |= {"upsampling": "bilinear", "normalisation": "layer", "pool_size": [1, 2, 2]}
    dataset = Fingerprint(9, 1, (60, 200, 200), 20.0, 9 * 60 * 200**2, 60 * 200**2, (3, 0.6, 0.6))
    automatic = ExperimentSettings(
        dataset="nuclei3d",
        model={**of, "dimensions": 3, "depth": "auto", "width": "auto"},
        patches={"tile": "auto"},
        train={"batch": "auto", "memory_gb": 4, "device": "cpu"},
    )
    made = plan(automatic, dataset, classes=2)
    assert made["step_bytes"] <= 4e9
    chosen = {name.split(".")[1]: made["values"][name] for name in ("model.depth", "model.width")}
    model = automatic.model.model_copy(update=chosen)
    for axis, extent in zip(model.geometry, made["values"]["patches.tile"], strict=True):
        axis.check_patch(extent)
    tile = choose_tile(model, 1, 2, (60, 512, 512), 1e9, "32")
    assert tile.peak_bytes <= 1e9
    alone = model.model_copy(update={"deep_supervision": False})
    sizes = [step_bytes(of, 1, 2, 1, made["values"]["patches.tile"]) for of in (alone, model)]
    assert sizes[0] < sizes[1] < 1.2 * sizes[0]

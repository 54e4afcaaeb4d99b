"""The U-Net: its size, its initial weights, and the geometry that it states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unetflow.geometry import Border, axis_tiles, tiles
from unetflow.inference import build
from unetflow.models.unet.settings import UNetSettings

torch.set_num_threads(1)
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, CONVOLUTIONS)]


def test_the_papers_network_has_23_convolutions_and_31_million_parameters() -> None:
    with torch.device("meta"):
        network = build(UNetSettings(), 1, 2)
    kinds = [
        (type(module).__name__, module.kernel_size[0], module.in_channels, module.out_channels)
        for module in convolutions(network)
    ]
    assert len(kinds) == 23
    assert sum(kind[:2] == ("Conv2d", 3) for kind in kinds) == 18
    assert [kind[2:] for kind in kinds if kind[0] == "ConvTranspose2d"] == [
        (1024, 512),
        (512, 256),
        (256, 128),
        (128, 64),
    ]
    assert [kind for kind in kinds if kind[1] == 1] == [("Conv2d", 1, 64, 2)]
    by_hand = sum(
        (inputs * extent**2 + 1) * outputs if kind == "Conv2d" else (inputs * 4 + 1) * outputs
        for kind, extent, inputs, outputs in kinds
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == by_hand == 31_030_658


def test_the_papers_tile_of_572_gives_388() -> None:
    network = build(UNetSettings(width=1), 1, 2).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize(("dimensions", "depth"), [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_outputs_have_the_stated_extents(dimensions: int, depth: int) -> None:
    settings = UNetSettings(dimensions=dimensions, width=1, depth=depth)
    network = build(settings, 3, 4).eval()
    axis = settings.geometry[0]
    # A different extent along every axis.
    extents = [axis.minimum + k * axis.divisor for k in range(dimensions)]
    with torch.inference_mode():
        output = network(torch.zeros(2, 3, *extents))
    assert output.shape == (2, 4, *(extent - 2 * axis.halo for extent in extents))


@pytest.mark.parametrize(("dimensions", "depth"), [(2, 1), (2, 2), (2, 3), (3, 1)])
def test_outputs_depend_on_the_stated_tile_and_on_nothing_else(dimensions: int, depth: int) -> None:
    """A line of changed input reaches a step of outputs exactly if their smallest tile holds it."""
    settings = UNetSettings(dimensions=dimensions, width=1, depth=depth)
    network = build(settings, 1, 2).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no unit is dead and no change cancels
    axis = settings.geometry[0]
    steps = 4
    extent, across = axis.input_for(axis.divisor * steps), axis.input_for(1)
    pixels = torch.ones(1, 1, extent, *(across,) * (dimensions - 1), dtype=torch.float64)
    with torch.inference_mode():
        before = network(pixels)
        for place in range(extent):
            changed = pixels.clone()
            changed[:, :, place] = 100
            same = (network(changed) == before).movedim(2, 0).flatten(1).all(dim=1)
            for start in range(0, steps * axis.divisor, axis.divisor):
                inside = start <= place < start + axis.input_for(axis.divisor)
                assert bool(same[start : start + axis.divisor].all()) != inside


class Same(nn.Module):
    """A padded U-Net, written down anew: every convolution pads itself, nothing is cropped."""

    def __init__(self, dimensions: int, width: int, depth: int, normalised: bool) -> None:
        super().__init__()
        convolution, normalisation, up = (
            (nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d)
            if dimensions == 2
            else (nn.Conv3d, nn.BatchNorm3d, nn.ConvTranspose3d)
        )

        def block(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (inputs, outputs):
                layers.append(convolution(channels, outputs, 3, padding=1, bias=not normalised))
                layers += [normalisation(outputs)] if normalised else []
                layers.append(nn.ReLU())
            return nn.Sequential(*layers)

        widths = [width * 2**level for level in range(depth + 1)]
        self.pool = nn.MaxPool2d(2) if dimensions == 2 else nn.MaxPool3d(2)
        self.down = nn.ModuleList(map(block, [1, *widths], widths))
        widths.reverse()
        self.up = nn.ModuleList(up(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(block(a, b) for a, b in pairwise(widths))
        self.classify = convolution(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [x := self.down[0](x)]
        for block in self.down[1:]:
            skips.append(x := block(self.pool(x)))
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.classify(x)  # type: ignore[no-any-return]


def unlike_at_first(network: nn.Module) -> nn.Module:
    """Give biases and stored statistics values as after a training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.1)
    return network


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("normalisation", ["none", "batch"])
@pytest.mark.parametrize(("dimensions", "depth"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_a_padded_network_equals_one_of_same_convolutions_of_the_same_weights(
    dimensions: int, depth: int, normalisation: str, training: bool
) -> None:
    torch.manual_seed(0)
    chosen = UNetSettings(
        dimensions=dimensions,
        width=3,
        depth=depth,
        dropout=0,
        padding="zeros",
        normalisation=normalisation,
    )
    network = unlike_at_first(build(chosen, 1, 2)).double()
    reference = Same(dimensions, 3, depth, normalisation == "batch").double()
    reference.load_state_dict(network.state_dict())
    extents = [2**depth * (2 + axis) for axis in range(dimensions)]
    pixels = torch.randn(2, 1, *extents, dtype=torch.float64)
    expected, found = reference.train(training)(pixels), network.train(training)(pixels)
    assert found.shape == (2, 2, *extents)
    torch.testing.assert_close(found, expected)
    for name, values in reference.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], values)
    expected.square().mean().backward()
    found.square().mean().backward()
    for mine, other in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@st.composite
def padded_tiles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Depth, extent of an image, and where what one tile writes of it starts and stops."""
    depth = draw(st.integers(1, 4))
    extent = 2**depth * draw(st.integers(1, 30))
    start = 2**depth * draw(st.integers(0, extent // 2**depth - 1))
    return depth, extent, start, draw(st.integers(start + 1, extent))


@given(padded_tiles())
@examples(max_examples=150)
def test_a_tile_that_is_padded_on_one_side_or_none_equals_the_part_of_the_whole(
    case: tuple[int, int, int, int],
) -> None:
    depth, extent, start, stop = case
    chosen = UNetSettings(width=1, depth=depth, padding="zeros")
    torch.manual_seed(0)
    network = build(chosen, 1, 2).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no unit is dead and no change cancels
    across = 2**depth
    pixels = torch.randn(1, 1, extent, across, dtype=torch.float64)
    (tile,) = axis_tiles(start, stop, extent, chosen.geometry[0], None)
    with torch.inference_mode():
        whole = network(pixels)
        part = network(pixels[:, :, tile.read_start : tile.read_stop], [tile.border, (True, True)])
    found = part[:, :, tile.offset :][:, :, : stop - start]
    torch.testing.assert_close(found, whole[:, :, start:stop], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dimensions", "depth"), [(2, 1), (2, 3), (3, 1)])
def test_batch_normalisation_stands_before_each_relu(dimensions: int, depth: int) -> None:
    network = build(
        UNetSettings(dimensions=dimensions, width=2, depth=depth, normalisation="batch"), 1, 2
    )
    kind = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm3d
    modules = list(network.modules())
    relus = [place for place, module in enumerate(modules) if isinstance(module, nn.ReLU)]
    assert len(relus) == 2 * (2 * depth + 1)
    assert all(isinstance(modules[place - 1], kind) for place in relus)


def test_a_frozen_contracting_path_keeps_its_statistics_in_training() -> None:
    network = build(UNetSettings(width=2, depth=1, normalisation="batch"), 1, 2)
    network.encoder.requires_grad_(False)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    network.train()(torch.randn(1, 1, 24, 24))
    changed = {
        name
        for name, values in network.state_dict().items()
        if not torch.equal(values, before[name])
    }
    assert {name.split(".")[0] for name in changed} == {"merge"}


def operations(network: nn.Module, extents: Sequence[int], border: Sequence[Border] | None) -> int:
    """Floating-point operations of one pass."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        network(torch.empty(1, 1, *extents), border)
    return int(counter.get_total_flops())


def test_a_tile_inside_an_image_costs_a_padded_network_what_it_costs_a_valid_one() -> None:
    """The paper's network and tile: 1.39 of the operations of the whole image for an output.

    Computing as much with padding and cutting the halo off would cost (576 / 384)² = 2.25.
    """
    with torch.device("meta"):
        padded, valid = (build(UNetSettings(padding=kind), 1, 2) for kind in ("zeros", "valid"))
    whole = operations(padded, (512, 512), None) / 512**2
    assert operations(padded, (1024, 768), None) == whole * 1024 * 768
    axis = UNetSettings(padding="zeros").geometry[0]
    extent = 5 * axis.step(576)
    inside = axis_tiles(384, 768, extent, axis, 576)
    assert [(tile.start, tile.read_stop - tile.read_start) for tile in inside] == [(384, 572)]
    cost = operations(padded, (572, 572), [inside[0].border] * 2)
    assert cost == operations(valid, (572, 572), None)
    assert cost / 384**2 / whole == pytest.approx(1.39, abs=0.005)


@pytest.mark.parametrize(
    ("extent", "tile", "most"), [(512, 512, 1.0), (1000, 576, 1.29), (2000, 1024, 1.14)]
)
def test_a_tiled_image_costs_little_more_than_the_whole(
    extent: int, tile: int, most: float
) -> None:
    with torch.device("meta"):
        network = build(UNetSettings(padding="zeros"), 1, 2)
    geometry = UNetSettings(padding="zeros").geometry
    cost = sum(
        operations(
            network,
            [along.read_stop - along.read_start for along in spans],
            [along.border for along in spans],
        )
        for spans in tiles([slice(0, extent)] * 2, [extent] * 2, geometry, [tile] * 2)
    )
    whole = operations(network, [axis.at_least(extent) for axis in geometry], None)
    assert 1 <= cost / whole <= most


@pytest.mark.parametrize("dimensions", [2, 3])
def test_initial_weights_are_gaussian_of_variance_2_over_incoming_nodes(dimensions: int) -> None:
    torch.manual_seed(0)
    network = build(UNetSettings(dimensions=dimensions, width=16, depth=2), 1, 2)
    for module in convolutions(network):
        # Incoming nodes, counted: inputs that one output value depends on.
        inputs = torch.zeros(1, module.in_channels, *(4,) * dimensions, requires_grad=True)
        centre = (
            (0, 0, *(1,) * dimensions) if module.kernel_size[0] < 3 else (0,) * (dimensions + 2)
        )
        (gradient,) = torch.autograd.grad(module(inputs)[centre], inputs)
        nodes = int(gradient.count_nonzero())
        weights = module.weight.detach().numpy().ravel()
        # The standard error of a Gaussian sample's deviation is std / sqrt(2 n).
        error = 5 / math.sqrt(2 * weights.size)
        assert weights.std() == pytest.approx(math.sqrt(2 / nodes), rel=error)
        assert abs(weights.mean()) < 5 * weights.std() / math.sqrt(weights.size)
        assert not module.bias.detach().numpy().any()


def test_dropout_changes_training_and_not_prediction() -> None:
    torch.manual_seed(0)
    network = build(UNetSettings(width=4, depth=2, dropout=0.5), 1, 2)
    pixels = torch.randn(1, 1, 60, 60)
    with torch.no_grad():
        assert not torch.equal(network.train()(pixels), network(pixels))
        assert torch.equal(network.eval()(pixels), network(pixels))


@pytest.mark.parametrize("blocks", ["plain", "residual"])
@pytest.mark.parametrize("place", ["contracted", "convolutions"])
def test_features_are_left_out_where_the_setting_says(blocks: str, place: str) -> None:
    torch.manual_seed(0)
    settings = UNetSettings(width=8, depth=2, dropout=0.4, blocks=blocks, dropout_at=place)
    network, pixels = build(settings, 1, 2).train(), torch.randn(1, 1, 60, 60)
    found: dict[str, list[torch.Tensor]] = {}
    for name, module in network.named_modules():
        if name.startswith(("down.", "merge.")) and name.count(".") == 1:
            seen = found.setdefault(name, [])
            module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
    network(pixels)
    network(pixels)
    changed = {name for name, (one, other) in found.items() if not torch.equal(one, other)}
    if place == "contracted":  # after the blocks of the last two levels
        assert changed == {"down.2", "merge.0", "merge.1"}
    else:
        assert changed == set(found)
        one, other = found["down.0"]
        assert (other[one > 0] == 0).float().mean() > 0.35
    assert torch.equal(network.eval()(pixels), network(pixels))


def test_several_images_of_a_batch_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    network = build(UNetSettings(width=2, depth=2), 1, 2).eval()
    pixels = torch.randn(3, 1, 60, 60)
    with torch.inference_mode():
        together = network(pixels).numpy()
        alone = np.concatenate([network(one[None]).numpy() for one in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-6 * np.ptp(alone))

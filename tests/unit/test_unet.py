"""The U-Net: its size, its initial weights, and the geometry that it states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from unetflow.inference import build
from unetflow.settings import UNetSettings

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


def test_several_images_of_a_batch_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    network = build(UNetSettings(width=2, depth=2), 1, 2).eval()
    pixels = torch.randn(3, 1, 60, 60)
    with torch.inference_mode():
        together = network(pixels).numpy()
        alone = np.concatenate([network(one[None]).numpy() for one in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-6 * np.ptp(alone))

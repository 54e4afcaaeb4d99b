"""TernausNet and FCN: their size, what they compute, and the geometry that they state."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import write_trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unetflow.geometry import axis_tiles
from unetflow.inference import Model, array_reader, build, logits
from unetflow.models.fcn.settings import FcnSettings
from unetflow.models.sliding_window.settings import SlidingWindowSettings
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.reading import parse
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.network import NetworkSettings
from unetflow.settings.networks import parse_network
from unetflow.tile_plan import choose_tile
from unetflow.training_plan import Fingerprint, plan
from unetflow.transfer import take_over

torch.set_num_threads(1)

PADDINGS = ("valid", "zeros")
TERNAUSNETS = [
    TernausNetSettings(network="ternausnet", width=2, padding=padding) for padding in PADDINGS
]
FCNS = [
    FcnSettings(network="fcn", width=2, stride=stride, padding=padding)
    for stride in (32, 16, 8)
    for padding in PADDINGS
]
WINDOWS = SlidingWindowSettings(network="sliding_window", width=3, hidden=5)
EACH = pytest.mark.parametrize(
    "settings",
    [*TERNAUSNETS, *FCNS, WINDOWS],
    ids=lambda of: "-".join(
        str(getattr(of, name, "")) for name in ("network", "stride", "padding")
    ),
)


def as_trained(settings: NetworkSettings, channels: int = 1, classes: int = 2) -> nn.Module:
    """A network in which no layer is zero, in double precision."""
    torch.manual_seed(0)
    network = build(settings, channels, classes).double().eval()
    for values in network.parameters():
        if not values.any():
            nn.init.normal_(values, std=0.1)
    return network


# ------------------------------------------------------------------------------------- size


def convolution(inputs: int, outputs: int, extent: int) -> int:
    """Parameters of a layer with bias."""
    return (inputs * extent**2 + 1) * outputs


def count(settings: NetworkSettings, channels: int, classes: int) -> int:
    with torch.device("meta"):
        network = build(settings, channels, classes)
    return sum(values.numel() for values in network.parameters())


VGG11 = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 3]
VGG16 = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512)]
VGG16 += [(512, 512)] * 5


def test_ternausnet_has_the_published_parameters() -> None:
    encoder = sum(convolution(*shape, 3) for shape in VGG11)
    assert encoder == 9_220_480  # vgg11().features of torchvision
    # Channels in, between and out of each block, and of the last convolution, by UNet11's source.
    blocks = [(512, 512, 256), (768, 512, 256), (768, 512, 128), (384, 256, 64), (192, 128, 32)]
    decoder = sum(convolution(a, b, 3) + convolution(b, c, 3) for a, b, c in blocks)
    one_logit = encoder + decoder + convolution(96, 32, 3) + convolution(32, 1, 1)
    assert one_logit == 22_927_393
    assert count(TernausNetSettings(network="ternausnet"), 3, 1) == one_logit


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_fcn_has_the_published_parameters(stride: int) -> None:
    encoder = sum(convolution(*shape, 3) for shape in VGG16)
    assert encoder == 14_714_688  # vgg16().features of torchvision
    fully = convolution(512, 4096, 7) + convolution(4096, 4096, 1)
    # torchvision's vgg16 has 138,357,544, with a last layer of 1000 classes.
    assert encoder + fully == 138_357_544 - (4096 + 1) * 1000
    scores = {32: [4096], 16: [4096, 512], 8: [4096, 512, 256]}[stride]
    kernels = {32: [64], 16: [4, 32], 8: [4, 4, 16]}[stride]
    expected = encoder + fully + sum(convolution(inputs, 21, 1) for inputs in scores)
    expected += sum(21 * 21 * kernel**2 for kernel in kernels)
    assert count(FcnSettings(network="fcn", stride=stride), 3, 21) == expected


def test_the_sliding_window_has_the_published_layers() -> None:
    # 95 -> 92 -> 46 -> 42 -> 21 -> 18 -> 9 -> 6 -> 3, then 200 neurons and 2.
    expected = convolution(1, 48, 4) + convolution(48, 48, 5) + 2 * convolution(48, 48, 4)
    expected += (48 * 3 * 3 + 1) * 200 + (200 + 1) * 2
    settings = SlidingWindowSettings(network="sliding_window")
    assert settings.window == 95
    assert count(settings, 1, 2) == expected == 219_290


# -------------------------------------------------------------------------- what is computed


class Published(nn.Module):
    """TernausNet, written down anew: every layer pads itself, nothing is cropped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 4, 8, 8, 8, 8)]
        self.features = nn.ModuleDict()
        for number, inputs, outputs in zip(
            (0, 3, 6, 8, 11, 13, 16, 18), [1, *widths], widths, strict=False
        ):
            self.features[str(number)] = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.up = nn.ModuleList()
        half = width // 2
        for inputs, middle, outputs in (
            (16, 16, 8),
            (24, 16, 8),
            (24, 16, 4),
            (12, 8, 2),
            (6, 4, 1),
        ):
            block = nn.Module()
            block.convolution = nn.Conv2d(inputs * half, middle * half, 3, padding=1)
            block.up = nn.ConvTranspose2d(
                middle * half, outputs * half, 3, stride=2, padding=1, output_padding=1
            )
            self.up.append(block)
        self.last = nn.Conv2d(3 * half, half, 3, padding=1)
        self.classify = nn.Conv2d(half, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in (("0",), ("3",), ("6", "8"), ("11", "13"), ("16", "18")):
            for number in level:
                x = self.features[number](x).relu()
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        for block in self.up:
            x = block.up(block.convolution(x).relu()).relu()
            x = torch.cat([x, skips.pop()], 1)
        return self.classify(self.last(x).relu())  # type: ignore[no-any-return]


def test_a_padded_ternausnet_is_the_published_one() -> None:
    network = as_trained(TERNAUSNETS[1])
    reference = Published(2).double()
    reference.load_state_dict(network.state_dict())
    pixels = torch.randn(2, 1, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(network(pixels), reference(pixels))


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_fcn_adds_linearly_interpolated_scores(stride: int) -> None:
    """Against torch's own interpolation; all but the encoder is written down anew."""
    settings = FcnSettings(network="fcn", width=2, stride=stride)
    network = as_trained(settings, classes=3)
    axis = settings.geometry[0]
    pixels = torch.randn(1, 1, axis.input_for(64), axis.input_for(96), dtype=torch.float64)

    def finer(x: Tensor, by: int) -> Tensor:
        wide = functional.interpolate(x, scale_factor=by, mode="bilinear", align_corners=False)
        lost = by // 2  # which torch fills with the nearest score
        return wide[:, :, lost:-lost, lost:-lost]

    def centre(x: Tensor, like: Tensor) -> Tensor:
        rows, columns = ((a - b) // 2 for a, b in zip(x.shape[2:], like.shape[2:], strict=True))
        return x[:, :, rows : x.shape[2] - rows, columns : x.shape[3] - columns]

    weights, x, pooled = network.state_dict(), pixels, []
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            x = functional.conv2d(x, layer.weight, layer.bias).relu()
        elif isinstance(layer, nn.MaxPool2d):
            x = functional.max_pool2d(x, 2)
            pooled.append(x)
    for name in ("classifier.0", "classifier.3"):
        x = functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
    x = network.classify["score"](x)
    for pool in (4, 3)[: {32: 0, 16: 1, 8: 2}[stride]]:
        x = finer(x, 2)
        x = x + centre(network.classify[f"score{pool}"](pooled[pool - 1]), x)
    torch.testing.assert_close(network(pixels), finer(x, stride))


def test_a_new_fcn_scores_nothing_and_learns_all_but_its_last_interpolation() -> None:
    network = build(FCNS[-1], 1, 2).train()
    pixels = torch.randn(1, 1, 64, 64)
    assert not network(pixels).any()
    for parameter in network.classify["score"].parameters():
        nn.init.normal_(parameter)
    network(pixels).square().mean().backward()
    still = [name for name, values in network.named_parameters() if values.grad is None]
    assert still == ["classify.final.weight"]


def test_a_finer_fcn_goes_on_from_a_coarser_one(tmp_path: Path) -> None:
    coarse, fine, finest = FCNS[1::2]
    before = as_trained(coarse).float().state_dict()
    start = write_trained(tmp_path / "coarse", coarse, as_trained(coarse))
    network = build(fine, 1, 2).eval()
    with pytest.raises(ValueError, match=r"must not know what a fold holds out: .* such as a; "):
        take_over(network, fine, start, ["b"], "cells", freeze_encoder=False)
    take_over(network, fine, start, ["a"], "cells", freeze_encoder=False)
    after = network.state_dict()
    kept = {name for name in after if name in before and torch.equal(after[name], before[name])}
    assert kept == {*before} - {"classify.final.weight"}
    assert not after["classify.score4.weight"].any()
    # So it begins as the coarser one, between whose scores it interpolates in two steps.
    coarser = build(coarse, 1, 2).eval()
    coarser.load_state_dict(before)
    with torch.inference_mode():
        pixels = torch.randn(1, 1, 160, 160)
        expected, found = (of(pixels)[:, :, 32:-32, 32:-32] for of in (coarser, network))
    assert expected.std() > 10 * (found - expected).std() > 0
    finer = write_trained(tmp_path / "finer", fine, network)
    with pytest.raises(ValueError, match=r"train\.start_from must be the same network: 3 layers"):
        take_over(build(coarse, 1, 2), coarse, finer, ["a"], "cells", freeze_encoder=False)
    other = write_trained(tmp_path / "other", TERNAUSNETS[1], as_trained(TERNAUSNETS[1]))
    with pytest.raises(ValueError, match=r"same network: got model.network fcn instead of ternaus"):
        take_over(build(finest, 1, 2), finest, other, ["a"], "cells", freeze_encoder=False)


def test_each_window_by_itself_takes_555_times_the_operations() -> None:
    found = {}
    for dense, extent in ((True, 2000), (False, 95)):
        settings = SlidingWindowSettings(network="sliding_window", dense=dense)
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            build(settings, 1, 2)(torch.empty(1, 1, extent, extent))
        found[dense] = counter.get_total_flops() / (extent - 94) ** 2
    # Of a large image; of this one its border still counts.
    assert 0.9 * 555 < found[False] / found[True] < 555


@pytest.mark.parametrize("channels", [1, 2])
def test_all_windows_at_once_are_what_each_is_by_itself(channels: int) -> None:
    torch.manual_seed(0)
    settings = SlidingWindowSettings(network="sliding_window")
    network = build(settings, channels, 3).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=0.3)
    pixels = torch.randn(2, channels, 95 + 6, 95 + 4)
    with torch.inference_mode():
        dense = network(pixels)
        network.dense = False
        patchwise = network(pixels)
        # By layers of torch alone, on one window.
        layers: list[nn.Module] = []
        for layer in network.convolutions:
            layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
        features = nn.Sequential(*layers, nn.Flatten())(pixels[1:, :, 5:100, 3:98])
        connected = features @ network.connect.weight.flatten(1).T + network.connect.bias
        alone = connected.relu() @ network.classify.weight.flatten(1).T + network.classify.bias
    assert dense.shape == patchwise.shape == (2, 3, 7, 5)
    for found, expected in ((dense, patchwise), (dense[1:, :, 5, 3], alone)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(dense.abs().max()))


# ---------------------------------------------------------------------------------- geometry


@EACH
def test_outputs_have_the_stated_extents(settings: NetworkSettings) -> None:
    axis = settings.geometry[0]
    extents = [axis.minimum, axis.minimum + axis.divisor]
    with torch.inference_mode():
        output = build(settings, 3, 4).eval()(torch.zeros(2, 3, *extents))
    assert output.shape == (2, 4, *(extent - 2 * axis.frame for extent in extents))


@pytest.mark.parametrize("settings", [TERNAUSNETS[0], *FCNS[::2], WINDOWS], ids=str)
def test_outputs_depend_on_the_stated_tile_alone(settings: NetworkSettings) -> None:
    """A line of changed input reaches a step of outputs only if their smallest tile holds it."""
    network = as_trained(settings)
    for parameter in network.parameters():
        parameter.data.abs_()  # so that no unit is dead and no change cancels
    axis = settings.geometry[0]
    extent = axis.input_for(2 * axis.divisor)
    pixels = torch.ones(1, 1, extent, axis.minimum, dtype=torch.float64)
    tile = axis.input_for(axis.divisor)
    with torch.inference_mode():
        before = network(pixels)
        for place in (0, 1, axis.divisor - 1, axis.divisor, tile - 1, tile, extent - 1):
            changed = pixels.clone()
            changed[:, :, place] = 100
            same = (network(changed) == before).movedim(2, 0).flatten(1).all(dim=1)
            for start in (0, axis.divisor):
                reached = not same[start : start + axis.divisor].all()
                inside = start <= place < start + tile
                # A new sample between two is cut off at the start, for the sake of symmetry.
                if not (settings.network == "ternausnet" and place in (0, 1, axis.divisor)):
                    assert reached == inside
                assert inside or not reached


@EACH
def test_a_tile_equals_its_part_of_the_whole(settings: NetworkSettings) -> None:
    network, axis = as_trained(settings), settings.geometry[0]
    extent = 160
    across = axis.minimum
    pixels = torch.randn(1, 1, axis.input_for(extent), across, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(pixels)
        for start, stop in ((0, 32), (32, 64), (64, 65), (64, 160), (96, 160), (0, 97)):
            (tile,) = axis_tiles(start, stop, extent, axis, None)
            # What a network of valid convolutions reads begins before the image.
            read = slice(tile.read_start + axis.frame, tile.read_stop + axis.frame)
            border = [tile.border, (axis.padded, axis.padded)]
            part = network(pixels[:, :, read], border)[:, :, tile.offset :][:, :, : stop - start]
            torch.testing.assert_close(part, whole[:, :, start:stop], rtol=1e-10, atol=1e-12)


@EACH
def test_tiled_prediction_equals_that_of_the_whole_image(settings: NetworkSettings) -> None:
    network = as_trained(settings).float()
    model = Model(network, settings.geometry, torch.device("cpu"), "32", {})
    shape = (133, 75)
    pixels = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    region = (slice(0, shape[0]), slice(0, shape[1]))
    whole = logits(model, array_reader(pixels), shape, region, None)
    small = [axis.at_least(32 + 2 * axis.reach) for axis in settings.geometry]
    tiled = logits(model, array_reader(pixels), shape, region, small)
    assert whole.shape == (2, *shape)
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * float(np.ptp(whole)))


# -------------------------------------------------------------------------- settings and plans


@EACH
def test_model_json_tells_the_network(settings: NetworkSettings) -> None:
    assert parse_network(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"network": "ternausnett"}, "model.network must be one of .*; the nearest is ternausnet"),
        (
            {"network": "fcn", "dimensions": 3},
            "model.dimensions: must be 2, .*: got 3; leave it out, and stacks are read plane by",
        ),
        ({"network": "fcn", "dimensions": 4}, "model.dimensions must be 2: got 4"),
        ({"network": "fcn", "stride": 4}, "model.stride must be 32, 16 or 8: got 4"),
        ({"network": "fcn", "depth": 4}, "unknown key model.depth; it belongs to another kind"),
        ({"network": "fcn", "width": 3}, "model.width must be a multiple of 2: got 3"),
        ({"network": "fcn", "depth": "auto"}, "model.depth auto must be of a network that has it"),
        ({"network": "fcn", "width": 8, "pretrained": "a.pth"}, "width must be 64 .* got 8"),
    ],
)
def test_a_mistake_is_one_line(model: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(ExperimentSettings, {"dataset": "isbi2012", "model": model}, "F")
    assert "\n" not in str(caught.value)


def test_the_plans_know_every_network() -> None:
    dataset = Fingerprint(30, 1, (512, 512), 40.0, 30 * 512**2, 512**2, (1.0, 1.0))
    padded = itertools.product(("ternausnet", "fcn"), PADDINGS)
    for of in (
        *({"network": network, "padding": padding} for network, padding in padded),
        {"network": "sliding_window"},
    ):
        automatic = ExperimentSettings(
            dataset="isbi2012",
            model={**of, "width": "auto"},
            patches={"tile": "auto"},
            train={"batch": "auto", "memory_gb": 4, "device": "cpu"},
        )
        made = plan(automatic, dataset, classes=2)
        assert set(made["values"]) == {"model.width", "patches.tile", "train.batch"}
        assert made["step_bytes"] <= 4e9
        model = automatic.model.model_copy(update={"width": made["values"]["model.width"]})
        for axis, extent in zip(model.geometry, made["values"]["patches.tile"], strict=True):
            axis.check_patch(extent)
        tile = choose_tile(model, 1, 2, (2048, 2048), 1e9, "32")
        assert tile.peak_bytes <= 1e9
        assert tile.waste >= 1

"""Weights of torchvision's VGG files, by name; files that are none of them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from unetflow.inference import build, sha256
from unetflow.models.fcn.settings import FcnSettings
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.pretrained import take_pretrained
from unetflow.settings.network import VggSettings

torch.set_num_threads(1)

# Of `features` and `classifier` in torchvision's vgg.py: the convolutions' places in the list.
VGG11 = {0: 64, 3: 128, 6: 256, 8: 256, 11: 512, 13: 512, 16: 512, 18: 512}
VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512}
VGG16 |= {24: 512, 26: 512, 28: 512}


def torchvisions(places: dict[int, int], width: int = 64, random: bool = True) -> dict[str, Tensor]:
    """Keys and shapes of torchvision's file; fully connected layers of width 64 take no room."""
    torch.manual_seed(0)
    tensors, inputs = {}, 3
    for place, channels in places.items():
        outputs = channels * width // 64
        tensors[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3)
        tensors[f"features.{place}.bias"] = torch.randn(outputs)
        inputs = outputs
    wide = 64 * width
    for place, (outputs, before) in {
        0: (wide, inputs * 49),
        3: (wide, wide),
        6: (1000, wide),
    }.items():
        small = torch.randn(outputs, before) if width < 64 else torch.zeros(1)
        tensors[f"classifier.{place}.weight"] = small.expand(outputs, before)
        tensors[f"classifier.{place}.bias"] = torch.randn(outputs)
    return tensors


def ternausnet(path: Path) -> TernausNetSettings:
    return TernausNetSettings(network="ternausnet", pretrained=str(path))


def thin(settings: VggSettings, path: Path, **values: Any) -> Any:
    """Settings that name a file of a thinner network, which torchvision has none of."""
    return settings.model_copy(update={"width": 2, "pretrained": str(path), **values})


@pytest.fixture(scope="module")
def vgg11(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    torch.save(torchvisions(VGG11), path)
    return path


def test_vgg11_loads_key_by_key(vgg11: Path) -> None:
    there = torch.load(vgg11, weights_only=True)
    assert sum(values.numel() for values in there.values()) == 132_863_336  # torchvision's vgg11
    network = build(ternausnet(vgg11), 3, 2)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    take_pretrained(network, ternausnet(vgg11), freeze=True)
    after = network.state_dict()
    of_encoder = {name for name in there if name.startswith("features.")}
    assert of_encoder == {name for name in after if name.startswith("features.")}
    for name, values in after.items():
        assert torch.equal(values, there[name] if name in of_encoder else before[name]), name
    learned = {name for name, values in network.named_parameters() if values.requires_grad}
    assert learned == {*after} - of_encoder


def test_an_image_of_one_channel_is_taken_as_three_equal_ones(vgg11: Path) -> None:
    grey, coloured = (build(ternausnet(vgg11), channels, 2) for channels in (1, 3))
    for network in (grey, coloured):
        take_pretrained(network, ternausnet(vgg11), freeze=False)
    pixels = torch.randn(1, 1, 32, 32)
    border = [(True, True)] * 2
    found = grey.features.level(0, pixels, border)
    expected = coloured.features.level(0, pixels.expand(1, 3, 32, 32), border)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_fully_connected_layers_become_convolutions(tmp_path: Path) -> None:
    path = tmp_path / "thin.pth"
    there = torchvisions(VGG16, width=2)
    torch.save(there, path)
    settings = thin(FcnSettings(network="fcn"), path)
    network = build(settings, 3, 2).eval()
    take_pretrained(network, settings, freeze=False)
    pooled = torch.randn(1, 16, 7, 7)
    flat, expected = nn.Flatten(), pooled
    for place in (0, 3):
        weights, bias = (there[f"classifier.{place}.{kind}"] for kind in ("weight", "bias"))
        expected = (flat(expected) @ weights.T + bias).relu()
    torch.testing.assert_close(flat(network.classifier(pooled)), expected, rtol=1e-4, atol=1e-3)


def test_a_name_tells_the_digest(vgg11: Path, tmp_path: Path) -> None:
    wrong, right = (tmp_path / f"vgg11-{it}.pth" for it in ("8a719046", sha256(vgg11)[:8]))
    for path in (wrong, right):
        path.write_bytes(vgg11.read_bytes())
    with pytest.raises(ValueError, match=r"must have the SHA-256 that its name tells.*8a719046"):
        take_pretrained(build(ternausnet(wrong), 3, 2), ternausnet(wrong), freeze=False)
    take_pretrained(build(ternausnet(right), 3, 2), ternausnet(right), freeze=False)


@pytest.mark.parametrize(
    "name", ["vgg11-8A719046.pth", "vgg11-8a719046 (1).pth", "vgg11-8a719046.pt", "a-8a719046"]
)
def test_a_name_tells_the_digest_whatever_has_become_of_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save(torchvisions(VGG11, 2), path)
    refused(path, r"must have the SHA-256 that its name tells: got [0-9a-f]{8}, expected 8[aA]7190")


def assert_taken(path: Path) -> None:
    """A network has the weights of a file."""
    settings = thin(ternausnet(path), path)
    network = build(settings, 3, 2)
    take_pretrained(network, settings, freeze=False)
    for name, weights in torch.load(path, weights_only=True).items():
        if name.startswith("features."):
            assert torch.equal(network.state_dict()[name], weights), name


def test_a_digest_in_capitals_is_one(tmp_path: Path) -> None:
    path = tmp_path / "vgg11.pth"
    torch.save(torchvisions(VGG11, 2), path)
    path = path.rename(tmp_path / f"vgg11-{sha256(path)[:8].upper()}.pth")
    assert_taken(path)


def test_digits_that_are_no_eight_tell_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "vgg11-8a7190461.pth"
    torch.save(torchvisions(VGG11, 2), path)
    assert_taken(path)


class Runs:
    """What a pickle with code looks like."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("was-here",)


def refused(path: Path, message: str, channels: int = 3) -> None:
    settings = thin(ternausnet(path), path)
    with pytest.raises(ValueError, match=message) as caught:
        take_pretrained(build(settings, channels, 2), settings, freeze=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_with_code_is_refused_and_not_run(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code.pth"
    if how == "torch":
        torch.save({"features.0.weight": Runs()}, path)
    else:
        path.write_bytes(pickle.dumps({"features.0.weight": Runs()}, protocol=2))
    refused(path, "must hold tensors alone")
    assert not (tmp_path / "was-here").exists()


def test_what_is_no_file_of_torch_is_told(tmp_path: Path) -> None:
    for content in (b"<html>404 Not Found</html>", b"abc" * 100):
        path = tmp_path / "page.pth"
        path.write_bytes(content)
        refused(path, "must be a whole file of torch.save")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_is_cut_short_is_told(old: bool, share: float, tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    torch.save(torchvisions(VGG11, 2), path, _use_new_zipfile_serialization=not old)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "must be a whole file of torch.save: got one that is cut short or damaged")


def test_a_damaged_byte_is_told(tmp_path: Path) -> None:
    path = tmp_path / "flipped.pth"
    there = torchvisions(VGG11, 2)
    torch.save(there, path)
    content, values = path.read_bytes(), there["features.6.weight"].numpy().tobytes()
    place = content.index(values) + 5
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    torch.load(path, weights_only=True)  # does not notice
    refused(path, "must be a whole file of torch.save: got one that is cut short or damaged")


def test_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 2, 3)), path)
    refused(path, "must be a file of torch.save: got TorchScript, another format; save the")
    safetensors.torch.save_file({"features.0.bias": torch.zeros(2)}, path)
    refused(path, "must be a file of torch.save: got safetensors, another format; save the")
    path.write_bytes(b'{"code":{"status":404,"message":"Not Found"}}')
    refused(path, "must be a whole file of torch.save")


def having(name: str, changed: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Weights of which one tensor is changed."""
    there = torchvisions(VGG11, 2)
    return there | {name: changed(there[name])}


@pytest.mark.parametrize("inputs", [2, 4])
def test_only_three_channels_are_added_up(inputs: int, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(having("features.0.weight", lambda it: it[:, :1].repeat(1, inputs, 1, 1)), path)
    refused(path, f"got 2x{inputs}x3x3 for features.0.weight, expected 2x1x3x3", channels=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torchvisions(VGG16, 2), "got 2x2x3x3 for features.2.weight, expected none|got none for"),
        (torchvisions(VGG11, 4), "got 4x3x3x3 for features.0.weight, expected 2x3x3x3"),
        ({"features.0.weight": torch.zeros(2, 3, 3, 3)}, "got none for features.0.bias"),
        ({}, "got none for features.0.weight, expected 2x3x3x3"),
        ([torch.zeros(2)], "must hold tensors by name"),
        ({0: torch.zeros(2)}, "must hold tensors by name"),
        (having("features.3.weight", Tensor.to_sparse), "dense .* got torch.sparse_coo; save"),
        (having("features.3.weight", Tensor.char), "floating-point weights: got torch.int8; save"),
        (having("features.3.bias", lambda it: it / 0), "finite .* got NaN or infinity; save"),
        (having("features.3.bias", lambda it: it.double() * 1e300), "got NaN or infinity; save"),
        ({"epoch": 3}, "must hold tensors by name"),
    ],
)
def test_another_architecture_is_told(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    refused(path, message)


def test_two_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "thin.pth"
    torch.save(torchvisions(VGG11, 2), path)
    refused(path, "images must have 1 or 3 channels for model.pretrained: got 2", channels=2)

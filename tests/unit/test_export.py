"""An exported network says elsewhere what it says here."""

from __future__ import annotations

import ast
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import imageio.v3 as imageio
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from small_model import grey, write_model

import unetflow
from unetflow.export import export, portable, write_weights
from unetflow.exported_frame import frame_of
from unetflow.inference import Model, array_reader, build, load, probabilities
from unetflow.intensity import Normalisation, histogram, normalisation
from unetflow.model_card import Subject
from unetflow.models.unet.settings import UNetSettings
from unetflow.packages import adopt
from unetflow.portable_unet import PortableUNet
from unetflow.regression import regression_of
from unetflow.settings.evaluation import ExportSettings
from unetflow.settings.training import IntensitySettings
from unetflow.store import create_image, read_json, write_json

torch.set_num_threads(1)

SECTIONS = Path(__file__).parents[3] / "shared/data/isbi2012.zip"

SUBJECT = Subject(
    "cells", "A <small> network", "Cells, small", "ask us", ("1505.04597", "10.1038/s41592-1", "us")
)
SCORES = {"dice_cell": {"mean": 0.5, "low": None, "high": None, "n": 1}}
# From depth 3 on, outputs of valid convolutions are no multiple of the divisor.
NETWORKS = {
    "2D valid": {"dimensions": 2, "depth": 3},
    "2D padded": {"dimensions": 2, "depth": 2, "padding": "zeros", "normalisation": "batch"},
    "3D valid": {"dimensions": 3, "depth": 1, "normalisation": "batch"},
    "3D padded": {"dimensions": 3, "depth": 1, "padding": "zeros"},
}
# Multiples of the divisor, and not all of those of the step of a tile
EXTENTS = {"2D valid": (160, 176), "2D padded": (84, 96), "3D valid": (28, 26, 30)}
EXTENTS["3D padded"] = EXTENTS["3D valid"]


@dataclass(frozen=True)
class Exported:
    """A model, the image that it was exported with, and its package."""

    model: Model
    pixels: NDArray[Any]
    package: Path
    agreement: dict[str, float]

    @property
    def halo(self) -> int:
        """Halo of the package's output."""
        return frame_of(self.model.geometry[0]).halo

    def ours(self, pixels: NDArray[Any], normalise: Normalisation | None = None) -> NDArray[Any]:
        """Probabilities of a whole image (channels, ...)."""
        facts = self.model.facts["intensity"]
        normalise = normalise or Normalisation(tuple(facts["offset"]), tuple(facts["scale"]))
        shape = pixels.shape[1:]
        whole = tuple(slice(0, extent) for extent in shape)
        read = array_reader(normalise.apply(pixels))
        return probabilities(self.model, read, shape, whole, None)


def exported(
    folder: Path,
    network: dict[str, Any],
    channels: int = 1,
    pixels: NDArray[Any] | None = None,
    target: dict[str, Any] | None = None,
    **intensity: Any,
) -> Exported:
    dimensions, axes = network["dimensions"], "czyx" if network["dimensions"] == 3 else "cyx"
    name = f"{dimensions}D {'padded' if network.get('padding') else 'valid'}"
    pixels = grey((channels, *EXTENTS[name])) if pixels is None else pixels
    model = write_model(folder / "model", dimensions, channels, 3, network, **intensity)
    facts = read_json(model / "model.json")
    training = {"best_step": 7, "images": ["one", "two"]}
    sizes = {"y": 0.5, "x": 0.25}
    facts |= {"training": training, "voxel_size_um": sizes}
    if target is not None:
        facts |= {"class_names": [], "target": target}
    write_json(model / "model.json", facts)
    write_json(folder / "summary.json", {"metrics": SCORES})
    create_image(folder / "image", axes, pixels.shape, pixels.dtype, {})[...] = pixels
    outputs = {"package": folder / "out/cells.zip", "agreement": folder / "out/agreement.json"}
    export(model, folder / "image", folder / "summary.json", outputs, SUBJECT, ExportSettings())
    loaded = load(model, "cpu", "32")
    return Exported(loaded, pixels, outputs["package"], read_json(outputs["agreement"]))


@pytest.fixture(scope="module", params=NETWORKS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a package of each geometry, of two channels and three classes."""
    needed()
    return exported(tmp_path_factory.mktemp("package"), NETWORKS[request.param], channels=2)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a package of a 2D network of valid convolutions, of one channel."""
    needed()
    return exported(tmp_path_factory.mktemp("flat"), NETWORKS["2D valid"])


def needed() -> None:
    for part in ("bioimageio.core", "onnx", "onnxruntime"):
        pytest.importorskip(part, reason=f"{part} is not installed: pip install 'unetflow[export]'")


def described(package: Path) -> Any:
    from bioimageio.spec import load_model_description

    return load_model_description(package)


def tiled(package: Path, pixels: NDArray[Any], weights_format: str, size: int) -> NDArray[Any]:
    """Probabilities (classes, ...) as bioimageio.core predicts them tile by tile."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model

    description = described(package)
    with create_prediction_pipeline(description, weights_format=weights_format) as pipeline:
        inputs = pixels[np.newaxis].astype(np.float32)
        sample = create_sample_for_model(description, inputs=inputs)
        found = pipeline.predict_sample_with_blocking(sample, ns=size).members["output"].data
    return np.asarray(found)[0]


OPTIONS: list[dict[str, Any]] = [
    {"normalisation": "none"},
    {"normalisation": "batch", "widening": "before", "upsampling": "nearest", "filter_size": 5},
    {"normalisation": "instance", "blocks": "residual", "upsampling": "bilinear"},
    {"normalisation": "layer", "blocks": "residual", "attention": True, "width": 8, "depth": 2},
    {"normalisation": "group", "blocks": "residual", "width": 4},
    {"attention": True, "upsampling": "bilinear", "deep_supervision": True, "depth": 2},
]


def both(settings: UNetSettings) -> tuple[Model, PortableUNet]:
    """Return a network of two channels and three classes, as after a training, and as exported."""
    torch.manual_seed(0)
    network = build(settings, 2, 3).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    facts = {"network": settings.model_dump(), "channels": 2, "class_names": ["a", "b", "c"]}
    model = Model(network, settings.geometry, torch.device("cpu"), "32", facts)
    return model, portable(model, frame_of(settings.geometry[0]))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_portable_network_says_what_ours_says(name: str, options: dict[str, Any]) -> None:
    settings = UNetSettings(**NETWORKS[name] | {"width": 2} | options)
    model, network = both(settings)
    frame = frame_of(settings.geometry[0])
    extents = [frame.minimum + steps * frame.divisor for steps in (2, 0, 1)[: settings.dimensions]]
    pixels = torch.randn(1, 2, *extents)
    region = tuple(slice(frame.margin, extent - frame.margin) for extent in extents)
    expected = probabilities(model, array_reader(pixels[0].numpy()), extents, region, None)
    with torch.inference_mode():
        found = network(pixels)[0].numpy()
    assert found.shape == (3, *extents)
    np.testing.assert_allclose(found[:, *region], expected, atol=1e-5)
    assert found.sum() == pytest.approx(np.prod(expected.shape[1:]), rel=1e-5), "0 on the margin"


@pytest.mark.parametrize(
    ("name", "options"), [("2D valid", OPTIONS[-1]), ("3D padded", OPTIONS[-2])], ids=str
)
def test_torchscript_and_onnx_know_the_options(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    needed()
    import onnxruntime

    settings = UNetSettings(**NETWORKS[name] | {"width": 2} | options)
    _, network = both(settings)
    axis = frame_of(settings.geometry[0])
    write_weights(network, (1, 2, *[axis.minimum] * settings.dimensions), tmp_path)
    scripted = torch.jit.load(str(tmp_path / "weights_torchscript.pt"))
    session = onnxruntime.InferenceSession(tmp_path / "weights.onnx")
    pixels = torch.randn(2, 2, *[axis.minimum + axis.divisor] * settings.dimensions)
    with torch.inference_mode():
        expected = network(pixels)
        torch.testing.assert_close(scripted(pixels), expected, rtol=0, atol=1e-5)
    found = session.run(None, {"input": pixels.numpy()})[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_a_network_that_differs_between_axes_is_refused(tmp_path: Path) -> None:
    needed()
    flat = {"dimensions": 3, "depth": 1, "pool_size": [1, 2, 2]}
    with pytest.raises(ValueError, match="does the same along every axis: got one whose"):
        exported(tmp_path, flat)


def test_all_formats_agree_with_us(package: Exported) -> None:
    assert set(package.agreement) == {"pytorch_state_dict", "torchscript", "onnx"}
    assert max(package.agreement.values()) < 1e-5


@pytest.mark.parametrize("weights_format", ["pytorch_state_dict", "onnx"])
def test_tiles_of_bioimageio_equal_our_whole_image(package: Exported, weights_format: str) -> None:
    expected = package.ours(package.pixels)
    found = tiled(package.package, package.pixels, weights_format, 4)
    assert found.shape == expected.shape
    inside = (slice(None),)
    if package.model.geometry[0].padded:  # there the tiles mirror the image, and ours pads
        inside += (slice(package.halo, -package.halo),) * (expected.ndim - 1)
        assert expected[inside].size, "the image is too small to tell"
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)


@pytest.mark.data
@pytest.mark.skipif(
    not SECTIONS.is_file(),
    reason="no real images: there is no folder shared/data beside the project",
)
def test_real_sections_are_predicted_alike(tmp_path: Path) -> None:
    needed()
    with ZipFile(SECTIONS) as archive:
        stored = archive.read("ISBI-2012-challenge/train-volume.tif")
    section = tifffile.imread(io.BytesIO(stored))[7, np.newaxis, 60:364, 100:420]
    package = exported(tmp_path, NETWORKS["2D valid"], pixels=section)
    expected = package.ours(section)
    for weights_format in ("pytorch_state_dict", "torchscript", "onnx"):
        found = tiled(package.package, section, weights_format, 4)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected[1]) > 0.01, "the network sees no difference"


def test_onnx_runtime_takes_any_batch_and_extents(package: Exported, tmp_path: Path) -> None:
    import onnxruntime

    frame, facts = frame_of(package.model.geometry[0]), package.model.facts
    with ZipFile(package.package) as archive:
        session = onnxruntime.InferenceSession(archive.read("weights.onnx"))
    extents = [
        frame.minimum + step * frame.divisor for step in range(facts["network"]["dimensions"])
    ]
    pixels = np.random.default_rng(1).normal(size=(3, 2, *extents)).astype(np.float32)
    found = session.run(None, {"input": pixels})[0]
    region = tuple(slice(frame.margin, extent - frame.margin) for extent in extents)
    for one, its in zip(pixels, found, strict=True):
        expected = probabilities(package.model, array_reader(one), extents, region, None)
        np.testing.assert_allclose(its[:, *region], expected, atol=1e-4)


def test_what_its_readme_tells_predicts_an_image_of_any_size(flat: Exported) -> None:
    with ZipFile(flat.package) as archive:
        readme = archive.read("README.md").decode()
    code = readme.split("```python\n")[1].split("```")[0].replace("PACKAGE.zip", str(flat.package))
    names = {"image": flat.pixels[0, :101, :87].astype(np.float64)}
    exec(code, names)
    expected = flat.ours(names["image"][np.newaxis])
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-4)


@pytest.mark.parametrize("normalise", ["zscore", "percentile"])
def test_an_images_own_statistics_are_taken_elsewhere_too(tmp_path: Path, normalise: str) -> None:
    needed()
    network = {"dimensions": 2, "depth": 1}
    package = exported(tmp_path, network, 2, source="image", normalise=normalise)
    settings = IntensitySettings(source="image", normalise=normalise)
    own = normalisation([histogram(channel, "image") for channel in package.pixels], settings)
    found = tiled(package.package, package.pixels, "torchscript", 10)
    np.testing.assert_allclose(found, package.ours(package.pixels, own), atol=1e-4)


@pytest.mark.parametrize("name", ["2D valid", "3D padded"])
def test_a_regression_gives_values_in_the_unit_of_its_targets(tmp_path: Path, name: str) -> None:
    needed()
    target = {"names": ["red", "2nd", "blue"], "offset": [500.0, 7.0, -3.0]}
    target |= {"scale": [120.0, 2.0, 40.0], "data_range": 900.0}
    package = exported(tmp_path, NETWORKS[name], target=target)
    assert max(package.agreement.values()) < 5e-5
    expected = package.ours(package.pixels)
    inside = (slice(None),)
    if package.model.geometry[0].padded:  # there the tiles mirror the image, and ours pads
        inside += (slice(package.halo, -package.halo),) * (expected.ndim - 1)
    assert np.ptp(expected[inside][0]) > 10, "the network sees no difference"
    for weights_format in ("pytorch_state_dict", "torchscript", "onnx"):
        found = tiled(package.package, package.pixels, weights_format, 4)
        np.testing.assert_allclose(found[inside], expected[inside], atol=120e-4)
    model = described(package.package)
    (output,) = model.outputs
    assert [str(of) for of in output.axes[1].channel_names] == ["red", "class_2nd", "blue"]
    assert output.postprocessing[0].id == "scale_linear"
    assert "image-restoration" in model.tags
    with ZipFile(package.package) as archive:
        readme = archive.read("README.md").decode()
    assert "in their unit:\nred, 2nd, blue." in readme
    assert "Dice" not in readme
    # In a sheet it is the same network.
    adopted = tmp_path / "adopted"
    adopt(str(package.package), adopted / "model.json", adopted / "model.safetensors")
    again = load(adopted, "cpu", "32")
    assert regression_of(again.facts) == regression_of(package.model.facts)
    for mine, its in zip(
        package.model.network.parameters(), again.network.parameters(), strict=True
    ):
        assert torch.equal(mine, its)


def test_the_package_says_what_a_reader_needs(flat: Exported) -> None:
    model = described(flat.package)
    assert (model.name, str(model.license), model.authors) == ("U-Net cells", "None", [])
    cited = [str(entry.doi) for entry in model.cite]
    assert cited == [
        "10.1007/978-3-319-24574-4_28",
        "10.48550/arXiv.1505.04597",
        "10.1038/s41592-1",
    ]
    size = model.inputs[0].axes[-1]
    assert (size.size.min, size.size.step, size.unit, size.scale) == (104, 8, "micrometer", 0.25)
    assert model.outputs[0].axes[-1].halo == 48
    classes = [str(name) for name in model.outputs[0].axes[1].channel_names]
    assert classes == ["background", "cell", "border"]
    with ZipFile(flat.package) as archive:
        readme = archive.read("README.md").decode()
    for told in ("A <small> network", "ask us", "| dice_cell | 0.5 | – | 1 |", "0.25 µm along x"):
        assert told in readme


def test_the_cover_shows_the_image_beside_its_probability(flat: Exported, tmp_path: Path) -> None:
    with ZipFile(flat.package) as archive:
        stored = archive.read("cover.png")
    picture = imageio.imread(stored)
    height, width = picture.shape[:2]
    assert width == 2 * height
    assert height >= 400
    assert len(stored) < 500_000
    left, right = picture[:, :height], picture[:, height:]
    assert (left.min(axis=2) == left.max(axis=2)).all(), "grey"
    assert len(np.unique(right.reshape(-1, 3), axis=0)) > 10


def test_the_network_of_a_package_imports_torch_alone(flat: Exported) -> None:
    with ZipFile(flat.package) as archive:
        tree = ast.parse(archive.read("unet.py"))
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"torch"}


def test_authors_and_licence_are_those_that_are_set() -> None:
    needed()
    from unetflow.model_package import licence

    assert licence(SUBJECT, ExportSettings()) is None
    assert licence(SUBJECT, ExportSettings(licence="CC-BY-4.0")) == "CC-BY-4.0"
    free = Subject("cells", "", "", "CC0-1.0", ())
    assert licence(free, ExportSettings()) == "CC0-1.0"
    with pytest.raises(ValueError, match=r"export.licence must be an SPDX identifier.*got 'free'"):
        licence(SUBJECT, ExportSettings(licence="free"))


def test_a_package_clips_as_its_model_does() -> None:
    needed()
    from unetflow.model_package import preprocessing

    for source in ("training", "image"):
        intensity = IntensitySettings(source=source, clip=(5, 90)).model_dump(mode="json")
        facts = {"intensity": {**intensity, "offset": [1.0], "scale": [2.0]}}
        first, second = preprocessing({**facts, "network": {"dimensions": 2}})
        assert first == {"id": "clip", "kwargs": {"min": 5.0, "max": 90.0}}
        assert second["id"] in ("scale_linear", "zero_mean_unit_variance")


def test_another_network_is_refused(tmp_path: Path) -> None:
    needed()
    write_json(tmp_path / "model.json", {"network": {"network": "fcn"}, "intensity": {}})
    with pytest.raises(ValueError, match="which is unet: got fcn; leave the experiment out"):
        export(tmp_path, tmp_path, tmp_path, {}, SUBJECT, ExportSettings())


@pytest.mark.parametrize("normalise", ["zscore", "percentile"])
def test_statistics_of_an_images_nonzero_pixels_are_refused_before_any_work(
    tmp_path: Path, normalise: str
) -> None:
    needed()
    own = {"source": "image", "pixels": "nonzero", "normalise": normalise}
    model = write_model(tmp_path / "model", **own)
    rule = r"^export must be .* got intensity\.source image of pixels nonzero.*source: training"
    with pytest.raises(ValueError, match=rule) as caught:
        export(model, tmp_path, tmp_path, {}, SUBJECT, ExportSettings())
    assert "\n" not in str(caught.value)


def test_a_format_that_says_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed()

    def wrong(network: Any, shape: Any, folder: Path) -> None:
        write_weights(network, shape, folder)
        with torch.no_grad():
            network.classify.bias += torch.tensor([3e-3, 0, 0])
        torch.save(network.state_dict(), folder / "weights.pt")

    monkeypatch.setattr("unetflow.export.write_weights", wrong)
    with pytest.raises(ValueError, match="pytorch_state_dict must say what we say"):
        exported(tmp_path, {"dimensions": 2, "depth": 1})
    assert not (tmp_path / "out").exists()


def test_a_channel_of_small_values_is_compared_in_its_own_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed()

    def wrong(network: Any, shape: Any, folder: Path) -> None:
        write_weights(network, shape, folder)
        with torch.no_grad():  # 4e-4 deviations of the second channel, 4e-7 of the first
            network.classify.bias += torch.tensor([0, 4e-4, 0])
        torch.save(network.state_dict(), folder / "weights.pt")

    monkeypatch.setattr("unetflow.export.write_weights", wrong)
    target = {"names": ["large", "small", "blue"], "offset": [0.0, 0.0, 0.0]}
    target |= {"scale": [1000.0, 1.0, 1.0], "data_range": 900.0}
    with pytest.raises(ValueError, match=r"pytorch_state_dict must say .* differs by 0\.000(4|39)"):
        exported(tmp_path, {"dimensions": 2, "depth": 1}, target=target)


@pytest.fixture
def without_bioimageio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make bioimageio.core missing."""
    monkeypatch.delitem(sys.modules, "unetflow.model_package", raising=False)
    monkeypatch.delattr(unetflow, "model_package", raising=False)
    monkeypatch.setitem(sys.modules, "bioimageio.core", None)


@pytest.mark.usefixtures("without_bioimageio")
def test_without_bioimageio_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'unetflow\[export\]'"):
        export(tmp_path, tmp_path, tmp_path, {}, SUBJECT, ExportSettings())

"""Models that a sheet names: ours from anywhere, and bioimage.io packages of other programs."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_model import grey, settings, write_model

from unetflow.inference import Model, array_reader, load, probabilities
from unetflow.packages import adopt, suited
from unetflow.planning import plan_archive
from unetflow.prediction import predict_image
from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import create_image, open_image, read_json

torch.set_num_threads(1)
for part in ("bioimageio.core", "onnx", "onnxruntime"):
    pytest.importorskip(part, reason=f"{part} is not installed: pip install 'unetflow[export]'")

from foreign_package import GAIN, HALO, SCALED, STEP, tiled, write_package  # noqa: E402 - it needs bioimageio

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

EXTENTS = {2: (84, 96), 3: (48, 56, 52)}


def adopted(place: Path | str, folder: Path) -> dict[str, Any]:
    """Facts of a model that is brought to a folder."""
    adopt(str(place), folder / "model.json", folder / "model.safetensors")
    facts: dict[str, Any] = read_json(folder / "model.json")
    return facts


def refused(place: Path | str, folder: Path) -> str:
    """Return the one line that says why a model is of no use."""
    facts = adopted(place, folder)
    assert set(facts) == {"reason"}
    assert facts["reason"].startswith(str(place))
    assert "\n" not in facts["reason"]
    return str(facts["reason"])


def predicted(model: Model, pixels: NDArray[Any], folder: Path, **how: Any) -> NDArray[Any]:
    """Probabilities of an image (channels, *spatial) but those of background, as volumes store."""
    axes = "c" + "zyx"[-(pixels.ndim - 1) :]
    create_image(folder / "image", axes, pixels.shape, pixels.dtype, {})[...] = pixels
    image, tile = open_image(folder / "image"), model.facts["tile"]
    predict_image(model, image, folder / "predicted", tile, settings(**how))
    return np.asarray(open_image(folder / "predicted").array[...])


@pytest.mark.parametrize("as_file", [False, True])
def test_a_model_of_ours_is_taken_as_it_is(tmp_path: Path, as_file: bool) -> None:
    given = write_model(tmp_path / "given")
    facts = adopted(given / "model.json" if as_file else given, tmp_path / "here")
    assert facts == read_json(given / "model.json")
    weights = "model.safetensors"
    assert (tmp_path / "here" / weights).read_bytes() == (given / weights).read_bytes()


def test_a_package_of_ours_holds_the_same_bytes(tmp_path: Path) -> None:
    from test_export import exported

    package = exported(tmp_path, {"dimensions": 2, "depth": 3}, channels=2)
    adopted(package.package, tmp_path / "here")
    for name in ("model.json", "model.safetensors"):
        expected = (tmp_path / "model" / name).read_bytes()
        assert (tmp_path / "here" / name).read_bytes() == expected, name


@pytest.mark.parametrize(("kind", "dimensions"), [("torchscript", 2), ("onnx", 2), ("onnx", 3)])
def test_tiles_of_another_programs_network_are_its_whole_image(
    tmp_path: Path, kind: str, dimensions: int
) -> None:
    network = write_package(tmp_path / "foreign.zip", kind, dimensions, pad="reflect")
    adopted(tmp_path / "foreign.zip", tmp_path / "here")
    model = load(tmp_path / "here", "cpu", "32")
    pixels = grey((1, *EXTENTS[dimensions])).astype(np.float32)
    region = tuple(slice(0, extent) for extent in EXTENTS[dimensions])
    found = [
        probabilities(model, array_reader(pixels), EXTENTS[dimensions], region, tile)
        for tile in (None, (2 * HALO + STEP,) * dimensions, (2 * HALO + 3 * STEP,) * dimensions)
    ]
    around = np.pad(pixels, [(0, 0)] + [(HALO, HALO)] * dimensions, mode="reflect")
    inner = (slice(HALO, -HALO),) * dimensions
    with torch.no_grad():
        whole = (
            network(torch.from_numpy(around * np.float32(GAIN))[None])
            .sigmoid()[0]
            .numpy()[:, *inner]
        )
    assert whole.std() > 0.01, "it says something"
    for one in found:
        np.testing.assert_allclose(one[1:], whole, atol=1e-5)
        np.testing.assert_allclose(one.sum(axis=0), 1, atol=1e-6)
    theirs = tiled(tmp_path / "foreign.zip", pixels)
    np.testing.assert_allclose(found[1][1:], theirs, atol=1e-5)


STEPS: dict[str, tuple[dict[str, Any], ...]] = {
    "mean": ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}},),
    "range": (
        {"id": "scale_range", "kwargs": {"axes": ["y", "x"]}},
        {"id": "clip", "kwargs": {"min": 0.2, "max": 0.7}},
    ),
    "linear": (
        {
            "id": "scale_linear",
            "kwargs": {"axis": "channel", "gain": [0.01, 0.02], "offset": [0.1, -0.2]},
        },
    ),
    "fixed": (
        {
            "id": "fixed_zero_mean_unit_variance",
            "kwargs": {"axis": "channel", "mean": [90.0, 120.0], "std": [40.0, 60.0]},
        },
    ),
}


@pytest.mark.parametrize("steps", STEPS)
def test_what_a_package_does_to_grey_values_is_done_to_a_volume(tmp_path: Path, steps: str) -> None:
    path = tmp_path / "foreign.zip"
    how = {"before": STEPS[steps], "after": ({"id": "softmax"},), "pad": "reflect"}
    write_package(path, channels=2, names=("background", "cell", "border"), **how)
    facts = adopted(path, tmp_path / "here")
    assert facts.get("class_names") == ["background", "cell", "border"], facts.get("reason")
    pixels = grey((2, *EXTENTS[2]))
    pixels[1] //= 2
    model = load(tmp_path / "here", "cpu", "32")
    expected = tiled(path, pixels)
    assert expected.std() > 0.01, "it says something"
    np.testing.assert_allclose(predicted(model, pixels, tmp_path), expected[1:], atol=1e-5)


def test_what_a_package_adds_to_a_deviation_is_added_here(tmp_path: Path) -> None:
    # By the specification: bioimageio.core 0.11 leaves it out.
    steps = ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"], "eps": 0.1}},)
    network = write_package(tmp_path / "foreign.zip", before=steps, pad="reflect")
    adopted(tmp_path / "foreign.zip", tmp_path / "here")
    pixels = (grey((1, *EXTENTS[2])) > 99).astype(np.float32)
    found = predicted(load(tmp_path / "here", "cpu", "32"), pixels, tmp_path)
    normalised = (pixels - pixels.mean()) / (pixels.std() + np.float32(0.1))
    around = np.pad(normalised, [(0, 0), (HALO, HALO), (HALO, HALO)], mode="reflect")
    with torch.no_grad():
        whole = network(torch.from_numpy(around)[None]).sigmoid()[0].numpy()
    np.testing.assert_allclose(found, whole[:, HALO:-HALO, HALO:-HALO], atol=1e-5)


def test_background_is_the_channel_of_that_name_or_what_no_channel_takes(tmp_path: Path) -> None:
    pixels = grey((1, *EXTENTS[2]))
    for number, (names, after, classes) in enumerate(
        [
            (("cell", "background"), "softmax", ["background", "cell"]),
            (("one", "two"), "softmax", ["one", "two"]),
            (("cell", "border"), "sigmoid", ["background", "cell", "border"]),
        ]
    ):
        folder = tmp_path / str(number)
        how = {"names": names, "after": ({"id": after},), "pad": "reflect"}
        write_package(folder / "foreign.zip", **how)
        assert adopted(folder / "foreign.zip", folder / "here")["class_names"] == classes
        found = predicted(load(folder / "here", "cpu", "32"), pixels, folder)
        theirs = tiled(folder / "foreign.zip", pixels)
        stored = [theirs[names.index(name)] for name in classes[1:]]
        np.testing.assert_allclose(found, stored, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"before": ({"id": "scale_range", "kwargs": {"axes": ["y"]}},)}, "got y; use another"),
        (
            {"before": ({"id": "zero_mean_unit_variance", "kwargs": {}},), "channels": 2},
            "over the whole of each channel, as volumes are normalised here: got batch, channel",
        ),
        (
            {"before": (*SCALED, {"id": "scale_range", "kwargs": {"axes": ["y", "x"]}})},
            "must have scale_range before other steps, and once",
        ),
        ({"after": ({"id": "scale_range", "kwargs": {}},), "untrue": True}, "got scale_range"),
        ({"after": ({"id": "binarize", "kwargs": {"threshold": 0.5}},)}, "got binarize"),
        ({"after": ()}, "must give probabilities, from 0 to 1, after its steps"),
        ({"pad": "constant"}, "must have its input mirrored, pad reflect: got constant"),
        ({"untrue": True}, "must say of its test input what it states, within 0.01: it differs by"),
    ],
)
def test_a_package_that_cannot_be_exact_is_told_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_package(tmp_path / "foreign.zip", **changes)
    assert words in refused(tmp_path / "foreign.zip", tmp_path / "here")


def rewritten(package: Path, change: Any) -> Path:
    """Write a package with other files."""
    with ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    other = package.with_name("other.zip")
    with ZipFile(other, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return other


def without_weights(files: dict[str, bytes]) -> None:
    """Say that the network is code with a state dict."""
    rdf = next(name for name in files if name.endswith("yaml"))
    old = b"  torchscript:\n"
    assert old in files[rdf]
    architecture = b"    architecture:\n      source: README.md\n      callable: Net\n"
    files[rdf] = files[rdf].replace(old, b"  pytorch_state_dict:\n" + architecture)


def without_digests(files: dict[str, bytes]) -> None:
    """Leave out what the files must be."""
    rdf = next(name for name in files if name.endswith("yaml"))
    lines = files[rdf].decode().splitlines(keepends=True)
    files[rdf] = "".join(line for line in lines if "sha256" not in line).encode()


@pytest.mark.parametrize(
    ("kind", "name"), [("onnx", "network.onnx"), ("torchscript", "network.pt")]
)
def test_a_network_that_is_none_is_told(tmp_path: Path, kind: str, name: str) -> None:
    def broken(files: dict[str, bytes]) -> None:
        without_digests(files)
        files[name] = b"no network"

    write_package(tmp_path / "foreign.zip", kind)
    refused(rewritten(tmp_path / "foreign.zip", broken), tmp_path / "here")


class Harmful:
    """What runs when a pickle of it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        """Say how to make it again."""
        return Path.touch, (self.path,)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    facts = read_json(write_model(tmp_path / "given") / "model.json")
    write_package(tmp_path / "foreign.zip")
    torch.save({"weight": Harmful(tmp_path / "ran")}, tmp_path / "harmful.pt")

    def harmful(files: dict[str, bytes]) -> None:
        without_weights(files)
        without_digests(files)
        files["model.json"] = json.dumps(facts).encode()
        files["network.pt"] = (tmp_path / "harmful.pt").read_bytes()

    words = refused(rewritten(tmp_path / "foreign.zip", harmful), tmp_path / "here")
    assert "weights must be tensors: got others, which are not read" in words
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.update({"network.pt": files["network.pt"] + b"more"}), "mismatch"),
        (lambda files: files.pop("network.pt"), "network.pt"),
        (lambda files: files.update({"input.npy": files["output.npy"]}), "mismatch"),
        (without_weights, "as TorchScript or ONNX, in one file: found neither"),
        (lambda files: files.clear(), "yaml"),
        (lambda files: [files.update({name: b": {"}) for name in files], ""),
    ],
    ids=["other weights", "no weights", "other input", "code", "no description", "no YAML"],
)
def test_a_package_of_other_files_than_it_states_is_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    write_package(tmp_path / "foreign.zip")
    assert words in refused(rewritten(tmp_path / "foreign.zip", change), tmp_path / "here")


def test_what_is_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    assert "must exist: found none" in refused(tmp_path / "none", tmp_path / "here")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    assert "bioimage.io package, a .zip" in refused(tmp_path / "broken.zip", tmp_path / "here")
    (tmp_path / "empty").mkdir()
    assert "must have model.json: found none" in refused(tmp_path / "empty", tmp_path / "here")
    given = write_model(tmp_path / "given")
    facts = read_json(given / "model.json")
    (given / "model.json").write_text(json.dumps(facts | {"weights_sha256": "0"}))
    assert "must have the SHA-256 that model.json" in refused(given, tmp_path / "here")
    (given / "model.json").write_text("{}")
    assert "model.json must have network, geometry" in refused(given, tmp_path / "here")
    (given / "model.json").write_text("{")
    refused(given, tmp_path / "here")


def test_inputs_of_one_size_are_predicted_in_tiles_of_it(tmp_path: Path) -> None:
    network = write_package(tmp_path / "foreign.zip", size=3 * HALO, pad="reflect")
    facts = adopted(tmp_path / "foreign.zip", tmp_path / "here")
    model, seen = load(tmp_path / "here", "cpu", "32"), []
    assert facts["tile"] == [3 * HALO] * 2
    model.network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    pixels = grey((1, 50, 70))
    found = predicted(model, pixels, tmp_path)
    assert set(seen) == {(3 * HALO, 3 * HALO)}
    around = [(HALO, HALO + -extent % STEP) for extent in pixels.shape[1:]]
    given = np.pad(pixels[0].astype(np.float32), around, mode="reflect")
    with torch.no_grad():
        whole = (
            network(torch.from_numpy(given * np.float32(GAIN))[None, None]).sigmoid()[0, 0].numpy()
        )
    np.testing.assert_allclose(found[0], whole[HALO : HALO + 50, HALO : HALO + 70], atol=1e-5)


def experiment(**sections: Any) -> ExperimentSettings:
    """Return an experiment of a network that is not the model's."""
    return ExperimentSettings(dataset="none", model={"width": 4, "depth": 2}, **sections)


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        ({"precision": "bf16"}, "predict.precision must be 32 for a package of another program"),
        ({"backend": "openvino"}, "predict.backend must be torch"),
        ({"output": "logits"}, "predict.output must be probabilities or classes"),
        ({"tile": 188}, "predict.tile must be [48, 48] for this package: got [188, 188]"),
    ],
)
def test_settings_that_a_package_cannot_have_are_told(
    tmp_path: Path, predict: dict[str, Any], words: str
) -> None:
    write_package(tmp_path / "foreign.zip", size=3 * HALO)
    facts = adopted(tmp_path / "foreign.zip", tmp_path / "here")
    with pytest.raises(ValueError, match="predict") as caught:
        suited(experiment(patches={"tile": 188}, predict=predict), facts)
    assert words in str(caught.value)


def test_no_images_choose_seeds_beside_a_package(tmp_path: Path) -> None:
    write_package(tmp_path / "foreign.zip", size=3 * HALO)
    facts = adopted(tmp_path / "foreign.zip", tmp_path / "here")
    how = experiment(segment={"method": "watershed", "seed_threshold": "auto"})
    with pytest.raises(
        ValueError, match=r"segment\.seed_threshold must be a number beside a model"
    ):
        suited(how, facts)
    # Where seeds do nothing it is not asked
    assert suited(experiment(segment={"seed_threshold": "auto"}), facts)


def planned(folder: Path, place: str, **predict: Any) -> dict[str, Any]:
    """Plan of volumes that a model predicts, of two and three dimensions and two channels."""
    adopted(place, folder / "here")
    rows = {}
    for name, axes, shape in (
        ("flat", "yx", (90, 80)),
        ("deep", "zyx", (40, 44, 48)),
        ("two", "cyx", (2, 90, 80)),
    ):
        create_image(folder / name, axes, shape, "u1", {})[...] = grey(shape)
        rows[name] = {"path": str(folder / name), "experiment": "", "model": place}
    models = {place: folder / "here/model.json"}
    experiments = {"": ExperimentSettings(dataset="none", predict=predict)}
    plan_archive(rows, experiments, folder / "plan.json", "key", models)
    volumes: dict[str, Any] = read_json(folder / "plan.json")["volumes"]
    return volumes


@pytest.mark.parametrize("tile", [None, "auto"])
def test_a_package_is_planned_as_a_network_of_ours(tmp_path: Path, tile: Any) -> None:
    write_package(tmp_path / "foreign.zip", before=STEPS["mean"])
    volumes = planned(tmp_path, str(tmp_path / "foreign.zip"), tile=tile)
    for name in ("flat", "deep"):
        plan = volumes[name]
        assert (plan["state"], plan["reason"]) == ("planned", "")
        assert (plan["network"], plan["own_intensity"]) == ("packaged", True)
        (block,) = plan["blocks"].values()
        assert block["job"]["tile"] == [48, 48] if tile is None else plan["tile"]
        assert all((extent - 36) % STEP == 0 for extent in plan["tile"])
        assert block["mem_mb"] > 900


def test_a_volume_that_a_model_is_not_for_is_told(tmp_path: Path) -> None:
    write_package(tmp_path / "foreign.zip", dimensions=3)
    volumes = planned(tmp_path, str(tmp_path / "foreign.zip"))
    assert "3D network needs 3 spatial axes: the image has 2; use a 2D" in volumes["flat"]["reason"]
    assert volumes["deep"]["state"] == "planned"
    nothing = planned(tmp_path / "again", str(tmp_path / "none.zip"))
    assert {of["state"] for of in nothing.values()} == {"failed"}
    assert "none.zip: a model must exist" in nothing["flat"]["reason"]


def test_a_network_that_sees_further_than_its_halo_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def seam(halo: int) -> float:
        folder = tmp_path / str(halo)
        size = {"min": 2 * halo + STEP, "step": STEP}
        write_package(folder / "foreign.zip", halo=halo, size=size)
        caplog.clear()
        with caplog.at_level("INFO"):
            adopted(folder / "foreign.zip", folder / "here")
        (line,) = [text for text in caplog.messages if "tiles differ" in text]
        return float(line.split("at most ")[1].split()[0])

    assert seam(HALO) < 1e-6
    assert seam(4) > 1e-3


def test_a_missing_extra_is_an_error_of_the_job_not_a_result_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as package:
        package.writestr("rdf.yaml", "type: model")
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    with pytest.raises(ImportError, match=r"needs bioimageio\.core: .*; pip install"):
        adopt(str(tmp_path / "m.zip"), tmp_path / "model.json", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.json").exists()

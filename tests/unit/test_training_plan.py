"""The plan of a training: measured memory, and choices that follow from a dataset's fingerprint."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetflow.experiments import settled
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import add_label, create_image, read_json, write_json
from unetflow.training_plan import (
    LARGEST_BATCH,
    LIBRARIES_BYTES,
    SHARE_OF_PIXELS,
    Fingerprint,
    fingerprint,
    plan,
    step_bytes,
    what_fits,
    write_plan,
)

AUTO: dict[str, Any] = {
    "model": {"width": "auto", "depth": "auto"},
    "patches": {"tile": "auto"},
    "train": {"batch": "auto"},
}

MEASURE = """
import re, torch
from pathlib import Path
from unetflow.inference import build
from unetflow.models.unet.settings import UNetSettings
torch.set_num_threads(1)
model, batch, tile = UNetSettings(**{model!r}), {batch}, {tile!r}
def peak():  # what resource.getrusage tells begins with the parent's
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
network = build(model, 1, 2)
optimiser = torch.optim.AdamW(network.parameters())
pixels = torch.randn(batch, 1, *tile)
if len(tile) == 2:
    pixels = pixels.contiguous(memory_format=torch.channels_last)
for _ in range(2):
    output = network(pixels)
    target = torch.zeros(batch, *output.shape[2:], dtype=torch.long)
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(output, target).backward()
    optimiser.step()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("model", "batch", "tile"),
    [
        ({"width": 16, "depth": 4}, 2, (572, 572)),
        ({"width": 32, "depth": 3}, 4, (284, 380)),
        ({"width": 16, "depth": 2, "dimensions": 3}, 1, (100, 84, 100)),
        ({"width": 16, "depth": 4, "padding": "zeros", "normalisation": "batch"}, 2, (512, 512)),
    ],
)
def test_the_memory_of_a_step_is_that_of_a_process_that_takes_it(
    model: dict[str, Any], batch: int, tile: tuple[int, ...]
) -> None:
    script = MEASURE.format(model=model, batch=batch, tile=tile)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found, measured = step_bytes(UNetSettings(**model), 1, 2, batch, tile), int(done.stdout)
    assert 0.9 * measured < found < 1.3 * measured + LIBRARIES_BYTES


def automatic(**changes: Any) -> ExperimentSettings:
    """Settings that leave everything to the plan, with some sections changed."""
    return ExperimentSettings(
        dataset="any",
        **{name: {**AUTO.get(name, {}), **changes.get(name, {})} for name in AUTO | changes},
    )


def test_auto_leaves_a_setting_to_the_plan_and_another_word_is_an_error() -> None:
    assert automatic().automatic == ("model.depth", "model.width", "patches.tile", "train.batch")
    assert ExperimentSettings(dataset="any", train={"batch": 2}).automatic == ()
    again = ExperimentSettings(**automatic().model_dump(mode="json"))
    assert again == automatic()
    assert automatic(train={"devices": 3}).train.batch == 3
    with pytest.raises(ValueError, match="width"):
        ExperimentSettings(dataset="any", model={"width": "large"})


fingerprints = st.builds(
    Fingerprint,
    images=st.integers(3, 100),
    channels=st.integers(1, 3),
    shape=st.tuples(st.integers(30, 2000), st.integers(30, 2000)),
    object_extent=st.floats(1, 500),
    pixels=st.integers(10**5, 10**9),
    largest=st.integers(10**5, 10**6),
    spacing=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
)


def dataset(shape: tuple[int, ...], object_extent: float) -> Fingerprint:
    """Twenty grey images."""
    return Fingerprint(20, 1, shape, object_extent, 10**7, 10**6, (1.0,) * len(shape))


@given(
    fingerprints,
    st.sampled_from([1, 2, 8, 24]),
    st.sampled_from([1, 2]),
    st.sampled_from(["valid", "zeros"]),
)
@examples(max_examples=40)
def test_a_plan_is_admissible_fits_the_memory_and_gives_reasons(
    of: Fingerprint, memory_gb: float, devices: int, padding: str
) -> None:
    experiment = automatic(
        model={"padding": padding}, train={"memory_gb": memory_gb, "devices": devices}
    )
    made = plan(experiment, of, 2)
    chosen = settled(experiment, made["values"])  # refuses a tile that is not admissible
    assert chosen.automatic == ()
    assert made["step_bytes"] <= memory_gb * 1e9
    assert set(made["reasons"]) == set(made["values"]) == set(experiment.automatic)
    assert chosen.train.batch <= max(LARGEST_BATCH, devices)
    tile = chosen.patches.tile_of(2)
    lost = 2 * chosen.model.geometry[0].halo if padding == "valid" else 0
    output = math.prod(n - lost for n in tile)
    if chosen.train.batch > devices:
        assert chosen.train.batch * output <= SHARE_OF_PIXELS * of.pixels


def test_larger_objects_have_deeper_networks_as_far_as_the_image_reaches() -> None:
    depths = []
    for extent in (5, 30, 60, 150, 900):
        made = plan(automatic(), dataset((700, 700), extent), 2)
        depths.append(made["values"]["model.depth"])
    assert depths == [2, 3, 4, 5, 5]
    thin = plan(automatic(), dataset((50, 700), 900), 2)
    assert thin["values"]["model.depth"] == 3  # its halo of 44 is the largest within 50


def test_a_step_that_cannot_fit_says_what_to_change() -> None:
    fixed = {"model": {"width": 64, "depth": 4}, "patches": {"tile": 572}}
    experiment = automatic(**fixed, train={"memory_gb": 0.5})
    with pytest.raises(ValueError, match=r"a step of batch 1, tile 572 x 572 and width 64 needs"):
        plan(experiment, dataset((700, 700), 50), 2)


def test_what_is_set_stays_as_it_is() -> None:
    experiment = automatic(model={"depth": 2}, train={"batch": 3})
    made = plan(experiment, dataset((100, 90), 50), 2)
    assert set(made["values"]) == {"model.width", "patches.tile"}
    chosen = settled(experiment, made["values"])
    assert (chosen.model.depth, chosen.train.batch) == (2, 3)
    halo = chosen.model.geometry[0].halo
    assert [extent - 2 * halo for extent in chosen.patches.tile_of(2)] == [100, 92]


def test_a_cpu_is_given_a_narrow_network() -> None:
    made = plan(automatic(train={"device": "cpu"}), dataset((256, 256), 20), 2)
    assert made["values"]["model.width"] == 16


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_fingerprint_is_that_of_the_annotated_images(tmp_path: Path, dimensions: int) -> None:
    """Discs or balls of diameter 9, beside one speck and an image without labels."""
    entries = []
    for name, extent in (("a", 40), ("b", 60), ("c", 50), ("unlabelled", 300)):
        shape = (extent,) * dimensions
        create_image(tmp_path / name, "zyx"[-dimensions:], shape, np.uint8, {})[...] = 0
        axes = "zyx"[-dimensions:]
        entry = {"image": name, "axes": axes, "shape": shape, "annotated": name != "unlabelled"}
        entry["voxel_size_um"] = {}
        entries.append(entry)
        if name == "unlabelled":
            continue
        grid = np.indices(shape)
        instances = np.zeros(shape, np.uint32)
        for number, centre in enumerate((10, 25), start=1):
            inside = ((grid - centre) ** 2).sum(axis=0) <= 4.5**2
            instances[inside] = number
        instances[(0,) * dimensions] = 3
        add_label(tmp_path / name, "instances", "zyx"[-dimensions:], instances, {})
        classes = (instances > 0).astype(np.uint8)
        add_label(tmp_path / name, "classes", "zyx"[-dimensions:], classes, {})
    found = fingerprint(tmp_path, {"images": entries}, dimensions)
    assert found.images == 3
    assert found.shape == (50,) * dimensions
    assert found.object_extent == pytest.approx(9, abs=0.5)
    assert found.pixels == sum(extent**dimensions for extent in (40, 60, 50))
    assert (found.channels, found.largest) == (1, 60**dimensions)
    colours = {**entries[0], "axes": "c" + entries[0]["axes"], "shape": (3, *entries[0]["shape"])}
    of_colours = fingerprint(tmp_path, {"images": [colours]}, dimensions)
    assert (of_colours.channels, of_colours.pixels) == (3, 40**dimensions)
    with pytest.raises(ValueError, match="must have annotated images: the dataset has none"):
        fingerprint(tmp_path, {"images": entries[3:]}, dimensions)


def test_planes_are_not_for_a_3d_network(tmp_path: Path) -> None:
    # Also one that no training sees, since the network is to predict it.
    entries = [
        {"image": name, "axes": axes, "shape": shape, "annotated": name == "a", "voxel_size_um": {}}
        for name, axes, shape in (("a", "zyx", [9, 9, 9]), ("b", "cyx", [3, 9, 9]))
    ]
    assert fingerprint(tmp_path, {"images": entries}, 2, look=False).shape == (9, 9)
    with pytest.raises(ValueError, match="/b: a 3D network needs 3 spatial axes: the image has 2;"):
        fingerprint(tmp_path, {"images": entries}, 3, look=False)


def test_long_voxels_make_short_tiles_and_count_for_the_depth() -> None:
    """A ball 24 voxels wide, and one of as many voxels that are eight times as long as wide."""
    cubes = Fingerprint(20, 1, (300, 300, 300), 24, 10**8, 10**7, (1.0, 1.0, 1.0))
    # Of one volume: 4 by 0.5 by 0.5 µm. The ball is 6 planes of 48 pixels.
    long = Fingerprint(20, 1, (300, 300, 300), 24, 10**8, 10**7, (4.0, 0.5, 0.5))
    assert long.object_extents == (6, 48, 48)
    fixed = automatic(model={"dimensions": 3, "width": 8}, train={"memory_gb": 100})
    of_cubes, of_long = (plan(fixed, each, 2)["values"] for each in (cubes, long))
    assert of_long["model.depth"] > of_cubes["model.depth"]
    model = settled(fixed, of_long).model
    extents = zip(of_long["patches.tile"], model.geometry, strict=True)
    planes, rows, columns = (extent - 2 * axis.halo for extent, axis in extents)
    divisor = model.geometry[0].divisor
    assert 22 <= planes < 22 + divisor  # 88 voxels where they are cubes
    assert rows == columns
    assert 8 * 22 <= rows < 8 * 22 + divisor
    assert of_cubes["patches.tile"][0] == of_cubes["patches.tile"][1]


def test_the_spacing_is_that_of_the_images_that_tell_it(tmp_path: Path) -> None:
    entries = [
        {"image": "a", "axes": "zyx", "shape": [9, 9, 9], "annotated": True, "voxel_size_um": size}
        for size in ({"z": 4.0, "y": 0.5, "x": 0.5}, {"z": 4.0, "y": 0.5, "x": 0.5}, {})
    ]
    found = fingerprint(tmp_path, {"images": entries}, 3, look=False)
    assert found.spacing == (4.0, 0.5, 0.5)  # their product is 1
    assert fingerprint(tmp_path, {"images": entries}, 2, look=False).spacing == (1.0, 1.0)
    assert fingerprint(tmp_path, {"images": entries[2:]}, 3, look=False).spacing == (1.0, 1.0, 1.0)


def test_ids_of_objects_may_be_large(tmp_path: Path) -> None:
    instances = np.zeros((20, 20), np.uint32)
    instances[3:7, 3:7] = 3_000_000_000
    create_image(tmp_path / "a", "yx", (20, 20), np.uint8, {})[...] = 0
    add_label(tmp_path / "a", "instances", "yx", instances, {})
    add_label(tmp_path / "a", "classes", "yx", (instances > 0).astype(np.uint8), {})
    entry = {"image": "a", "axes": "yx", "shape": (20, 20), "annotated": True}
    entry["voxel_size_um"] = {}
    assert fingerprint(tmp_path, {"images": [entry]}, 2).object_extent == pytest.approx(
        4.5, abs=0.1
    )


def test_tiles_that_are_set_decide_the_depth() -> None:
    for tile, deepest in ((572, 5), (276, 3)):
        chosen = automatic(patches={"tile": tile})
        made = plan(chosen, dataset((700, 700), 900), 2)
        assert made["values"]["model.depth"] == deepest
        settled(chosen, made["values"])
    with pytest.raises(ValueError, match=r"auto must suit the tiles .* \[30\], which no depth"):
        plan(automatic(patches={"tile": 30}), dataset((700, 700), 20), 2)
    fixed = ExperimentSettings(
        dataset="any", model={"depth": 3}, patches={"tile": "auto"}, predict={"tile": 51}
    )
    with pytest.raises(ValueError, match=r"predict.tile must suit the planned depth 3, or be auto"):
        plan(fixed, dataset((700, 700), 20), 2)


def test_an_automatic_tile_of_prediction_binds_no_depth() -> None:
    free = automatic(predict={"tile": "auto"})
    made = plan(free, dataset((700, 700), 900), 2)
    assert made == plan(automatic(), dataset((700, 700), 900), 2)
    assert settled(free, made["values"]).predict.tile == "auto"


def test_the_patch_of_a_padded_network_is_as_large_as_the_image_where_it_fits() -> None:
    experiment = automatic(model={"padding": "zeros", "dimensions": 3, "depth": 2})
    made = plan(experiment, dataset((9, 70, 61), 20), 2)
    assert made["values"]["patches.tile"] == [12, 72, 64]
    settled(experiment, made["values"])


def test_a_stack_thinner_than_a_step_has_an_admissible_tile() -> None:
    chosen = automatic(model={"dimensions": 3, "depth": 3})
    made = settled(chosen, plan(chosen, dataset((3, 200, 200), 20), 2)["values"])
    steps = [
        axis.step(extent)
        for axis, extent in zip(made.model.geometry, made.patches.tile_of(3), strict=True)
    ]
    assert min(steps) == steps[0] == 8  # one step covers the three planes


@pytest.mark.parametrize(
    ("batch", "tile", "remedy"),
    [
        (8, 572, "set train.batch to 4"),
        (1, 572, r"set patches.tile to \[4\d\d, 4\d\d\]"),
        (1, 44, "lower model.width"),
    ],
)
def test_what_fits_is_smaller(batch: int, tile: int, remedy: str) -> None:
    depth = 4 if tile > 100 else 2
    experiment = ExperimentSettings(
        dataset="any",
        model={"depth": depth, "width": 16},
        patches={"tile": tile},
        train={"batch": batch},
    )
    assert re.fullmatch(f"{remedy}(, or lower model.width)?", what_fits(experiment, 1, 2))


@pytest.mark.parametrize(
    ("split", "share"),
    [
        ({"folds": 4}, 1 / 4),
        ({"folds": 4, "validate_on": "training"}, 3 / 4),
        ({"folds": 4, "validate_on": "training", "tested_planes": 3}, 1 / 4),
        ({"folds": 1, "tested_planes": 3}, 1),
    ],
)
def test_a_job_has_memory_for_the_images_that_validate(
    tmp_path: Path, split: dict[str, Any], share: float
) -> None:
    asked = []
    for planes in (1000, 2000):
        entry = {"image": "a", "axes": "zyx", "shape": [50, 1000, 1000], "annotated": True}
        images = [entry | {"voxel_size_um": {}}] * planes
        write_json(tmp_path / "index.json", {"class_names": ["a", "b"], "images": images})
        experiment = ExperimentSettings(dataset="any", split=split)
        write_plan(tmp_path, tmp_path / "index.json", tmp_path / "plan.json", experiment, "key")
        asked.append(read_json(tmp_path / "plan.json")["mem_mb"])
    # Grey values in 4 bytes, classes in one
    assert asked[1] - asked[0] == pytest.approx(5 * 50 * 1000 * share, rel=0.01)


def test_a_plan_is_written_with_what_its_job_needs(tmp_path: Path) -> None:
    entry = {"image": "a", "axes": "zyx", "shape": [50, 1000, 1000], "annotated": True}
    entry["voxel_size_um"] = {}
    index = {"class_names": ["background", "cell"], "images": [entry]}
    write_json(tmp_path / "index.json", index)
    for devices in (1, 2):
        experiment = ExperimentSettings(dataset="any", train={"batch": 2, "devices": devices})
        output = tmp_path / f"{devices}.json"
        write_plan(tmp_path, tmp_path / "index.json", output, experiment, "key")
        made = read_json(output)
        assert (made["key"], made["values"]) == ("key", {})
        need = step_bytes(experiment.model, 1, 2, 2 // devices, (572, 572))
        assert made["step_bytes"] == need
        assert made["mem_mb"] * 1e6 > devices * need + 33 * 50e6
    json.dumps(made)

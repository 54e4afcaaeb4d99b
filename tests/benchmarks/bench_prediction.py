"""Prediction of whole images: one network, one image, as unetflow and its peers tile them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from harness import (
    Prepared,
    compare,
    convolution_peak,
    in_fresh_process,
    process_peak_mib,
    read,
    write,
)
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetflow.compiled import OpenVinoNetwork
from unetflow.geometry import AxisGeometry, mirrored
from unetflow.inference import Model, array_reader, autocast, build, logits
from unetflow.models.unet.settings import UNetSettings
from unetflow.settings.prediction import PredictSettings
from unetflow.tile_plan import TilePlan, choose_tile

CORES = os.cpu_count() or 1
ROUNDS, CLASSES = 10, 2
PEER_TILE = {2: 512, 3: 128}
CAREAMICS_OVERLAP = 48
BIOIMAGEIO_HALO = {2: 32, 3: 16}
"""The library has no default."""


@dataclass(frozen=True)
class Case:
    """An image and a network.

    Attributes
    ----------
    compared : tuple of int
        Extents of the image on which logits are compared with those of the whole in one piece.
    """

    shape: tuple[int, ...]
    width: int
    depth: int
    precision: str
    compared: tuple[int, ...]

    def __str__(self) -> str:
        """What stands in the table."""
        return f"{'×'.join(map(str, self.shape))}, width {self.width}, {self.precision}"


LARGE, PLANE, PAPER = (4096, 4096), (2048, 2048), (512, 512)
VOLUME, PART = (256, 512, 512), (128, 256, 256)
CASES = [
    Case(shape, width, depth, precision, compared)
    for precision in ("bf16", "32")
    for shape, width, depth, compared in (
        (PAPER, 64, 4, PAPER),
        (PLANE, 16, 4, PLANE),  # as the large one, and short enough to be run in rounds
        (LARGE, 16, 4, LARGE),
        (PART, 8, 3, PART),  # as the large one, and short enough to be run in rounds
        (VOLUME, 8, 3, (160, 256, 256)),  # the whole in one piece takes over 10 GB
    )
]

Pixels = NDArray[np.float32]
Run = Callable[[], Any]
"""Predicts and returns logits (classes, *spatial)."""


def plan(case: Case) -> TilePlan:
    """Tiles of unetflow, as the planner chooses them."""
    memory = 1e9 * PredictSettings().memory_gb
    return choose_tile(settings(case), 1, CLASSES, case.shape, memory, case.precision)


def settings(case: Case) -> UNetSettings:
    """The U-Net of a case."""
    return UNetSettings(dimensions=len(case.shape), width=case.width, depth=case.depth)


def model(case: Case, precision: str, padding: str = "valid") -> Model:
    """Network of random weights, the same for every method."""
    torch.manual_seed(0)
    architecture = settings(case).model_copy(update={"padding": padding})
    network = build(architecture, 1, CLASSES).eval()
    return Model(network, architecture.geometry, torch.device("cpu"), precision, {})


def smooth_noise(shape: tuple[int, ...], sigma: float = 2.0) -> Pixels:
    """Gaussian noise of unit variance, smooth over some pixels, made in its own memory."""
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    ndimage.gaussian_filter(noise, sigma, output=noise, mode="wrap")
    noise *= (2 * sigma * np.sqrt(np.pi)) ** (len(shape) / 2)
    return noise


class SameExtents(nn.Module):
    """The network with an output as large as its input, which is what the peers tile with.

    Either the image is mirrored as far as valid convolutions need it, or convolutions pad with
    zeros, as in the peers' own networks: less work, and values near a tile's border that are off.
    """

    def __init__(self, case: Case, zero_padded: bool) -> None:
        super().__init__()
        made = model(case, case.precision, "zeros" if zero_padded else "valid")
        self.network, self.precision = made.network, made.precision
        self.geometry, self.zero_padded = settings(case).geometry, zero_padded

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, classes, *spatial) of pixels (N, channels, *spatial)."""
        spans = [self.span(*each) for each in zip(self.geometry, pixels.shape[2:], strict=True)]
        for axis, (front, total, _) in enumerate(spans, start=2):
            index = mirrored(-front, total - front, pixels.shape[axis])
            pixels = pixels.index_select(axis, torch.from_numpy(index))
        with autocast(pixels.device, self.precision):
            output: Tensor = self.network(pixels).float()
        return output[:, :, *(kept for _, _, kept in spans)]

    def span(self, axis: AxisGeometry, extent: int) -> tuple[int, int, slice]:
        """Samples in front of a tile, all that are read, and which outputs are the tile's own."""
        if not self.zero_padded:
            return axis.halo, axis.input_for(extent), slice(0, extent)
        # Puts the pooling grid where it is in the mirrored image: valid convolutions begin the
        # deepest pooling 2 (divisor - 1) samples in.
        front = (axis.halo + 2) % axis.divisor
        total = -(-(extent + front) // axis.divisor) * axis.divisor
        return front, total, slice(front, front + extent)


def unetflow(case: Case, pixels: Pixels) -> Run:
    """`logits`, as the rules call it."""
    return partial(whole, model(case, case.precision), pixels, plan(case).tile)


def unetflow_openvino(case: Case, pixels: Pixels) -> Run:
    """The same with `predict.backend: openvino`."""
    made = model(case, case.precision)
    example = torch.zeros(1, 1, *(axis.smallest_tile for axis in made.geometry))
    network = OpenVinoNetwork(made.network, example, case.precision, CORES)
    return partial(whole, replace(made, network=network), pixels, plan(case).tile)


def whole(made: Model, pixels: Pixels, tile: tuple[int, ...] | None) -> Pixels:
    """Logits of an image, in one piece where there is no tile."""
    region = tuple(slice(0, extent) for extent in pixels.shape)
    return logits(made, array_reader(pixels[np.newaxis]), pixels.shape, region, tile)


def monai(case: Case, pixels: Pixels, overlap: float, mode: str, zero_padded: bool = False) -> Run:
    """`sliding_window_inference`."""
    from monai.inferers import sliding_window_inference

    network = SameExtents(case, zero_padded)
    roi = (PEER_TILE[pixels.ndim],) * pixels.ndim
    image = torch.from_numpy(pixels)[None, None]

    @torch.inference_mode()
    def run() -> Tensor:
        found: Tensor = sliding_window_inference(image, roi, 1, network, overlap=overlap, mode=mode)
        return found[0]

    return run


def nnunet(case: Case, pixels: Pixels, zero_padded: bool = False) -> Run:
    """`nnUNetPredictor`, without its plans. By itself it computes in single precision on CPUs."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.network = SameExtents(case, zero_padded)
    patch = (PEER_TILE[pixels.ndim],) * pixels.ndim
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    image = torch.from_numpy(pixels)[None]
    image = image if pixels.ndim == 3 else image[None]  # a plane is a stack of one

    def run() -> Tensor:
        found: Tensor = predictor.predict_sliding_window_return_logits(image)
        return found.reshape(-1, *pixels.shape)

    return run


def careamics(case: Case, pixels: Pixels) -> Run:
    """Tiles and stitching of its prediction, with the overlap that it has by default.

    It imports torchvision, of which newer versions need CUDA's libraries to be imported at all.
    """
    from careamics.dataset.image_region_data import ImageRegionData
    from careamics.dataset.image_stack import InMemoryImageStack
    from careamics.dataset.patch_extractor import PatchExtractor
    from careamics.dataset.patching.tiled_patching import TiledPatching
    from careamics.lightning.prediction import stitch_prediction

    network = SameExtents(case, False)
    axes = "ZYX"[-pixels.ndim :]
    extents = (PEER_TILE[pixels.ndim],) * pixels.ndim

    @torch.inference_mode()
    def run() -> Pixels:
        extractor = PatchExtractor([InMemoryImageStack.from_array(pixels, axes)])
        shape = extractor.shapes[0]
        tiling = TiledPatching([shape], extents, (CAREAMICS_OVERLAP,) * pixels.ndim)
        predicted = []
        for spec in map(tiling.get_patch_spec, range(tiling.n_patches)):
            patch = extractor.extract_patch(0, spec["sample_idx"], spec["coords"], extents)
            output = network(torch.from_numpy(patch)[None])[0].numpy()
            predicted.append(
                ImageRegionData(
                    output, "array", shape, "float32", axes, axes, pixels.shape, spec, {}
                )
            )
        found: Pixels = stitch_prediction(predicted)[0][0][0]
        return found

    return run


def bioimageio(case: Case, pixels: Pixels) -> Run:
    """`predict_sample_with_fixed_blocking` of a model whose output axes have a halo."""
    from bioimageio.core import Sample, Tensor, create_prediction_pipeline
    from bioimageio.core.backends.pytorch_backend import PytorchModelAdapter

    network = SameExtents(case, False)

    class Adapter(PytorchModelAdapter):
        """Takes the network from memory instead of from a file."""

        def _init_model_on_device(self, device: torch.device) -> nn.Module:
            return network

    described = description("zyx"[-pixels.ndim :], BIOIMAGEIO_HALO[pixels.ndim])
    pipeline = create_prediction_pipeline(
        described, model_adapter=Adapter(described, devices=["cpu"])
    )
    axes = ("batch", "channel", *"zyx"[-pixels.ndim :])
    extents = dict(zip(axes[2:], pixels.shape, strict=True))
    blocks = {axis: min(PEER_TILE[pixels.ndim], extent) for axis, extent in extents.items()}

    def run() -> Any:
        sample = Sample(members={"image": Tensor(pixels[None, None], axes)}, stat={}, id=None)
        found = pipeline.predict_sample_with_fixed_blocking(
            sample, {"image": {"batch": 1, "channel": 1} | blocks}
        )
        return found.members["logits"].to_numpy()[0]

    return run


def description(axes: str, halo: int) -> Any:
    """Model description of bioimage.io, as far as tiling reads it."""
    from bioimageio.spec import ValidationContext
    from bioimageio.spec.model import v0_5

    names = [f"class{index}" for index in range(CLASSES)]
    size = v0_5.ParameterizedSize(min=2 * halo + 1, step=1)
    file = {"source": "https://example.org/none.npy", "sha256": "0" * 64}
    spatial = [{"type": "space", "id": axis, "size": size.model_dump()} for axis in axes]
    outputs = [
        {
            "type": "space",
            "id": axis,
            "size": {"tensor_id": "image", "axis_id": axis, "offset": 0},
            "halo": halo,
        }
        for axis in axes
    ]
    with ValidationContext(perform_io_checks=False):
        return v0_5.ModelDescr.model_validate(
            {
                "type": "model",
                "format_version": v0_5.ModelDescr.implemented_format_version,
                "name": "benchmark",
                "inputs": [
                    {
                        "id": "image",
                        "axes": [
                            {"type": "batch"},
                            {"type": "channel", "channel_names": ["grey"]},
                            *spatial,
                        ],
                        "test_tensor": file,
                        "pad": {"mode": "reflect"},
                    }
                ],
                "outputs": [
                    {
                        "id": "logits",
                        "axes": [
                            {"type": "batch"},
                            {"type": "channel", "channel_names": names},
                            *outputs,
                        ],
                        "test_tensor": file,
                    }
                ],
                "weights": {
                    "pytorch_state_dict": file
                    | {
                        "architecture": {"import_from": "torch.nn", "callable": "Identity"},
                        "pytorch_version": "2.0",
                    }
                },
            }
        )


METHODS: Mapping[str, Callable[[Case, Pixels], Run]] = {
    "unetflow": unetflow,
    "unetflow, OpenVINO": unetflow_openvino,
    "MONAI, overlap 0.25, constant": partial(monai, overlap=0.25, mode="constant"),
    "MONAI, overlap 0.5, gaussian": partial(monai, overlap=0.5, mode="gaussian"),
    "MONAI, overlap 0.25, constant, zero-padded": partial(
        monai, overlap=0.25, mode="constant", zero_padded=True
    ),
    "nnU-Net, overlap 0.5, gaussian": nnunet,
    "nnU-Net, overlap 0.5, gaussian, zero-padded": partial(nnunet, zero_padded=True),
    "CAREamics": careamics,
    "bioimageio.core": bioimageio,
}


def write_reference(case: Case, path: Path) -> None:
    """Save the logits of the compared extents, of the whole image in one piece in precision 32."""
    torch.set_num_threads(CORES)
    np.save(path, whole(model(case, "32"), smooth_noise(case.compared), None))


@dataclass(frozen=True)
class Facts:
    """What one run in a process of its own tells: all but the time."""

    peak_mib: float
    operations: int
    difference: float
    span: float
    """Largest less smallest logit."""


def run_alone(case: Case, name: str, reference: Path) -> Facts:
    """Predict once."""
    torch.set_num_threads(CORES)
    run = METHODS[name](case, smooth_noise(case.shape))
    if "OpenVINO" in name:  # what it does is not seen, and cannot be compiled while it is watched
        predicted, operations = run(), plan(case).operations
    else:
        with FlopCounterMode(display=False) as counter:
            predicted = run()
        operations = counter.get_total_flops()
    peak_mib = process_peak_mib()
    if case.compared != case.shape:
        predicted = METHODS[name](case, smooth_noise(case.compared))()
    expected = np.load(reference)
    difference = np.abs(np.asarray(predicted, np.float32) - expected).max()
    return Facts(peak_mib, int(operations), float(difference), float(np.ptp(expected)))


def whole_operations(case: Case) -> int:
    """Floating-point operations of the whole image in one piece."""
    geometry = settings(case).geometry
    extents = [axis.input_for(extent) for axis, extent in zip(geometry, case.shape, strict=True)]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(settings(case), 1, CLASSES)(torch.empty(1, 1, *extents))
    return int(counter.get_total_flops())


def compare_case(case: Case, folder: Path) -> list[dict[str, object]]:
    """Rows of a case: times first, then what a process for each method tells."""

    def prepare(name: str) -> Prepared:
        return Prepared(METHODS[name](case, smooth_noise(case.shape)))

    torch.set_num_threads(CORES)
    # Of the paper's network alone: the peak is that of wide layers in a plane.
    highest = convolution_peak(case.precision, "cpu") if case.shape == PAPER else None
    methods = {name: partial(prepare, name) for name in METHODS}
    rows = compare(str(case), methods, ROUNDS, traced=False)
    reference = folder / "reference.npy"
    in_fresh_process(write_reference, case, reference)
    for row in rows:
        if "median_seconds" not in row:
            continue
        facts = in_fresh_process(run_alone, case, str(row["method"]), reference)
        seconds = float(str(row["median_seconds"]))
        notes = [
            f"{np.prod(case.shape) / seconds / 1e6:.3g} Mvoxel/s",
            f"waste {facts.operations / whole_operations(case):.2f}",
            f"off {facts.difference:.1e} ({facts.difference / facts.span:.1e} of the range)",
        ]
        if highest and str(row["method"]).startswith("unetflow"):
            share = facts.operations / seconds / highest
            notes.append(f"{share:.2f} of the convolution peak, {highest / 1e12:.2f} TFLOP/s")
        row["note"] = "; ".join([*notes, *filter(None, [str(row["note"])])])
        row["peak_mib"] = facts.peak_mib
    return rows


def main(chosen: list[str]) -> None:
    """Compare on planes and volumes, or on the cases alone whose names hold a chosen word.

    The rows of other cases stay as they were measured before.
    """
    cases = [case for case in CASES if not chosen or any(word in str(case) for word in chosen)]
    before = read("prediction")
    rows = {str(case): before.get(str(case), []) for case in CASES if chosen}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            rows[str(case)] = compare_case(case, Path(folder))
            write("prediction", [*chain(*rows.values())], ROUNDS)  # the next case can take long


if __name__ == "__main__":
    main(sys.argv[1:])

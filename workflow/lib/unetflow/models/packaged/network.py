"""A network of another program, as a bioimage.io package holds it: TorchScript or ONNX.

Both are graphs of known operations: nothing that a package says is run as Python.

References
----------
.. [1] bioimage.io model description 0.5, https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unetflow.models.packaged.settings import PackagedSettings, Step

Run = Callable[[Tensor], Tensor]


class Packaged(nn.Module):
    """A network from normalised grey values (N, channels, *inputs) to probabilities.

    These are (N, classes, *outputs), background first, without the package's halo. The program is a
    buffer, so that a file of weights, and its digest, hold it as they hold any weights.
    """

    program: Tensor

    def __init__(self, settings: PackagedSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("program", torch.zeros(settings.program_bytes, dtype=torch.uint8))
        self.run: Run | None = None

    def forward(self, pixels: Tensor, *_border: Any) -> Tensor:
        """Return probabilities."""
        of = self.settings
        if self.run is None:
            self.run = OPENED[of.program](self.program.cpu().numpy().tobytes(), pixels.device)
        given = to_order(applied(of.before, pixels), of.input_axes)
        made = from_order(self.run(given.contiguous()), of.output_axes, of.dimensions)
        return self.classes(applied(of.after, made.float()))

    def classes(self, made: Tensor) -> Tensor:
        """Return what the package's output (N, channels, *extents) says of each class."""
        inner = (
            slice(crop, extent - crop)
            for crop, extent in zip(self.settings.crop, made.shape[2:], strict=True)
        )
        made = made[:, :, *inner]
        if self.settings.background is None:
            return torch.cat([(1 - made.amax(dim=1, keepdim=True)).clamp(min=0), made], dim=1)
        first = self.settings.background
        return torch.cat([made[:, first : first + 1], made[:, :first], made[:, first + 1 :]], dim=1)


def applied(steps: Sequence[Step], values: Tensor) -> Tensor:
    """Return values (N, channels, ...) after some steps."""
    for step in steps:
        if step.kind == "scale":
            tail = (1,) * (values.ndim - 2)
            gain, offset = (
                torch.tensor(of, dtype=values.dtype, device=values.device).reshape(-1, *tail)
                for of in (step.gain, step.offset)
            )
            values = values * gain + offset
        elif step.kind == "clip":
            values = values.clamp(step.low, step.high)
        else:
            values = values.sigmoid() if step.kind == "sigmoid" else values.softmax(dim=1)
    return values


def to_order(values: Tensor, axes: str) -> Tensor:
    """Return values (N, channels, *spatial) with other axes, in another order.

    Those that are left out have the extent 1.
    """
    ours = "bczyx" if values.ndim == 5 else "bcyx"
    order = axes + "".join(axis for axis in ours if axis not in axes)
    moved = values.permute([ours.index(axis) for axis in order])
    return moved.reshape(moved.shape[: len(axes)])


def from_order(values: Tensor, axes: str, dimensions: int) -> Tensor:
    """Undo `to_order`."""
    ours = "bczyx" if dimensions == 3 else "bcyx"
    order = axes + "".join(axis for axis in ours if axis not in axes)
    values = values.reshape(*values.shape, *[1] * (len(order) - len(axes)))
    return values.permute([order.index(axis) for axis in ours])


def torchscript(program: bytes, device: torch.device) -> Run:
    """Open TorchScript, on a device."""
    network = torch.jit.load(BytesIO(program), map_location=device)  # type: ignore[no-untyped-call]
    network.eval()

    def run(pixels: Tensor) -> Tensor:
        found = network(pixels)
        return found if isinstance(found, Tensor) else found[0]

    return run


def onnx(program: bytes, device: torch.device) -> Run:
    """Open ONNX, on a device.

    Raises
    ------
    ValueError
        If onnxruntime is not installed, or not for the device.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"a package with ONNX needs onnxruntime: {error}; pip install 'unetflow[export]'"
        ) from error
    wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise ValueError(
            "onnxruntime must be installed for the GPU: found it for the CPU alone; "
            "pip install onnxruntime-gpu, or set predict.device to cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with of_onnxruntime():
        session = onnxruntime.InferenceSession(program, options, providers=[wanted])
    name = session.get_inputs()[0].name

    def run(pixels: Tensor) -> Tensor:
        with of_onnxruntime():
            found = session.run(None, {name: pixels.cpu().numpy()})[0]
        return torch.from_numpy(np.asarray(found)).to(device)

    return run


@contextmanager
def of_onnxruntime() -> Iterator[None]:
    """Make errors of onnxruntime, which have no class in common, such as torch has."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"ONNX must run: {error}") from error


OPENED: dict[str, Callable[[bytes, torch.device], Run]] = {"torchscript": torchscript, "onnx": onnx}


def build(settings: PackagedSettings, _channels: int, _classes: int) -> Packaged:
    """Return a network whose program is still to be loaded."""
    return Packaged(settings)

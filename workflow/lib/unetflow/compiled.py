"""A network as OpenVINO runs it on CPUs: fused and in the layout its convolutions like best.

References
----------
.. [1] OpenVINO, https://docs.openvino.ai: model conversion from PyTorch, inference precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class OpenVinoNetwork(nn.Module):
    """A network of torch that OpenVINO executes; extents may be any that the network takes.

    Parameters
    ----------
    example : Tensor
        Input (1, channels, *spatial) of the smallest extents.
    precision : "32" or "bf16"
        Of the convolutions.
    threads : int
        Of the CPU.

    Raises
    ------
    ValueError
        If OpenVINO is not installed.
    """

    def __init__(self, network: nn.Module, example: Tensor, precision: str, threads: int) -> None:
        super().__init__()
        try:
            import openvino
        except ImportError as error:
            raise ValueError(
                "predict.backend: openvino must be installed: found none; "
                "pip install 'unetflow[openvino]', or set torch"
            ) from error
        self.openvino: Any = openvino
        self.network, self.example = network, example
        self.options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled: dict[Any, Any] = {}

    def forward(self, pixels: Tensor, *border: Any) -> Tensor:
        """Return logits; each kind of border that a tile has is compiled when it first comes."""
        key = str(border)
        if key not in self.compiled:
            self.compiled[key] = self.compile(Bordered(self.network, border))
        return torch.from_numpy(self.compiled[key](pixels.contiguous().numpy())[0])

    def compile(self, network: nn.Module) -> Any:
        """Return a network that takes any extents."""
        free = self.openvino.PartialShape(
            [*self.example.shape[:2], *[-1] * (self.example.ndim - 2)]
        )
        with torch.autocast("cpu", enabled=False):  # OpenVINO chooses the precision itself
            converted = self.openvino.convert_model(
                network, example_input=self.example, input=[free]
            )
        return self.openvino.Core().compile_model(converted, "CPU", self.options)


class Bordered(nn.Module):
    """A network for tiles of one kind of border."""

    def __init__(self, network: nn.Module, border: tuple[Any, ...]) -> None:
        super().__init__()
        self.network, self.border = network, border

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.network(pixels, *self.border)
        return logits

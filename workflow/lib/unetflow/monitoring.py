"""What people watch while a network learns, beside the terminal: TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from unetflow.inference import array_reader, logits
from unetflow.store import remove
from unetflow.validation import Judge


class Events:
    """Event files in a folder, for `tensorboard --logdir results`.

    A training that goes on from `step` replaces what was written for later steps; one that begins
    removes all of it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        if step == 0:
            remove(folder)
        self.writer = SummaryWriter(folder, purge_step=step + 1)

    def figures(self, step: int, row: Mapping[str, float]) -> None:
        """Losses, rates and scores of a step."""
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)

    def weights(self, step: int, network: nn.Module) -> None:
        """Histogram of each layer's weights."""
        for name, values in network.named_parameters():
            self.writer.add_histogram(name, values.detach(), step)

    def picture(self, step: int, validation: Judge) -> None:
        """Middle of the first validation image beside its truth and what is predicted of it.

        Grey from 0 to 1. Of a stack that is predicted plane by plane, the middle plane is taken.
        """
        model, tile = validation.model, validation.tile
        pixels, truth = validation.images[0]
        plane = tuple(extent // 2 for extent in pixels.shape[1 : -len(tile)])
        pixels, truth = (of[..., *plane, *[slice(None)] * len(tile)] for of in (pixels, truth))
        shape = pixels.shape[1:]
        outputs = [
            extent - 2 * axis.reach for extent, axis in zip(tile, model.geometry, strict=True)
        ]
        starts = [
            max(0, (extent - output) // 2) for extent, output in zip(shape, outputs, strict=True)
        ]
        region = tuple(
            slice(start, min(start + output, extent))
            for start, output, extent in zip(starts, outputs, shape, strict=True)
        )
        found = logits(model, array_reader(pixels), shape, region, tile)
        panels = validation.panels(
            truth[(slice(None),) * (truth.ndim - len(region)) + region], found
        )
        grey = pixels[0][region]
        grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)
        shown = [part[(*(n // 2 for n in part.shape[:-2]),)] for part in (grey, *panels)]
        self.writer.add_image("image, truth, prediction", np.hstack(shown), step, dataformats="HW")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

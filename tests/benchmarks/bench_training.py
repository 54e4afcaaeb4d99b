"""A step of training: one network, one tile, as unetflow, nnU-Net, MONAI and bare torch take it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

import torch
from harness import Prepared, Skip, compare, convolution_peak, synchronised, write
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from unetflow.inference import build
from unetflow.models.unet.settings import UNetSettings
from unetflow.optimisation import State
from unetflow.settings.training import TrainSettings
from unetflow.training import PRECISIONS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE, CLASSES = 572, 2


def network(width: int) -> nn.Module:
    """The U-Net of 2015, of a width, as all methods train it."""
    torch.manual_seed(0)
    return build(UNetSettings(width=width), 1, CLASSES).to(DEVICE)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, classes and weights of one tile."""
    generator = torch.Generator().manual_seed(0)
    output = TILE - 184
    pixels = torch.randn(1, 1, TILE, TILE, generator=generator)
    classes = torch.randint(CLASSES, (1, output, output), generator=generator)
    weights = 1 + torch.rand(1, output, output, generator=generator)
    return pixels.to(DEVICE), classes.to(DEVICE), weights.to(DEVICE)


def ours(width: int, precision: str, note: str, faster: bool = False) -> Prepared:
    """`State.take_step`, as the rule train_model calls it."""
    chosen = {"precision": PRECISIONS[precision], "plugins": LightningEnvironment()}
    fabric = Fabric(accelerator=DEVICE, devices=1, **chosen)
    settings = TrainSettings(recipe="modern", steps=10**6, batch=1)
    parts = batch()
    state = State(fabric, network(width), settings, 10**6, parts[0] if faster else None)
    return Prepared(synchronised(lambda: state.take_step(parts), DEVICE), note)


def nnunet(width: int, precision: str, note: str) -> Prepared:
    """nnU-Net's loss and order of work: Dice and cross entropy, clipping at 12, Nesterov.

    Its autocast (to float16) is for GPUs alone: elsewhere it computes in single precision.
    """
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    if DEVICE == "cpu" and precision == "bf16":
        raise Skip("computes in single precision on a CPU")
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    criterion = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    pixels, classes, _ = batch()
    learning = network(width)
    optimiser = torch.optim.SGD(learning.parameters(), 1e-4, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(DEVICE, enabled=DEVICE == "cuda")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, enabled=DEVICE == "cuda"):
            loss = criterion(learning(pixels), classes[:, None])
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(learning.parameters(), 12)
        scaler.step(optimiser)
        scaler.update()
        loss.detach().cpu().numpy()

    return Prepared(synchronised(step, DEVICE), note)


def monai(width: int, precision: str, note: str) -> Prepared:
    """MONAI's Dice and cross entropy, and the order of work of its supervised trainer."""
    from monai.losses import DiceCELoss

    criterion = DiceCELoss(softmax=True, to_onehot_y=True)
    return plain_step(
        width, precision, note, lambda logits, classes: criterion(logits, classes[:, None])
    )


def plain(width: int, precision: str, note: str) -> Prepared:
    """Torch alone: cross entropy, no weights, no gradient's norm, tensors as they come."""
    return plain_step(width, precision, note, functional.cross_entropy)


def plain_step(
    width: int, precision: str, note: str, criterion: Callable[[Tensor, Tensor], Tensor]
) -> Prepared:
    """Forward, loss, backward and Adam."""
    pixels, classes, _ = batch()
    learning = network(width)
    optimiser = torch.optim.AdamW(learning.parameters(), 1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            logits = learning(pixels)
        loss = criterion(logits.float(), classes)
        loss.backward()
        optimiser.step()
        loss.item()

    return Prepared(synchronised(step, DEVICE), note)


def operations(width: int) -> int:
    """Floating-point operations of a forward and a backward pass."""
    pixels, classes, _ = batch()
    learning = network(width)
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(learning(pixels), classes).backward()
    return int(counter.get_total_flops())


METHODS: Mapping[str, Callable[..., Prepared]] = {
    "unetflow": ours,
    "unetflow, compiled": partial(ours, faster=True),
    "bare torch": plain,
    "MONAI's loss and step": monai,
    "nnU-Net's loss and step": nnunet,
}


def main() -> None:
    """Time steps of the paper's tile; say in the notes which share of the peak each reaches."""
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    for width, precision in ((64, "bf16"), (64, "32"), (16, "bf16")):
        highest, work = convolution_peak(precision, DEVICE), operations(width)
        found = compare(
            f"{TILE}², width {width}, {precision}, {DEVICE}",
            {name: partial(make, width, precision, "") for name, make in METHODS.items()},
            traced=False,  # torch's memory is not NumPy's
        )
        for row in found:
            if "median_seconds" in row:
                share = work / float(str(row["median_seconds"])) / highest
                row["note"] = f"{share:.2f} of the convolution peak, {highest / 1e12:.2f} TFLOP/s"
        rows += found
    write("training", rows)


if __name__ == "__main__":
    main()

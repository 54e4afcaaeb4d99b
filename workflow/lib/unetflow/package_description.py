"""What a bioimage.io package of another program says of its network, in our terms.

Its extents are a geometry: tiles begin at multiples of the step and their halo is cut off, so that
all of them see the same pooling grid. The image is mirrored at its border, without repeating the
edge pixel, as far as the halo reaches. What is done to each voxel by itself is part of the network;
statistics of grey values are those of the whole volume, never of a tile.

References
----------
.. [1] bioimage.io model description 0.5, https://bioimage-io.github.io/spec-bioimage-io
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow.models.packaged.settings import PackagedSettings, Program, Step
from unetflow.settings.training import IntensitySettings

MICROMETRES = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}
STATISTICS = ("zero_mean_unit_variance", "scale_range")


def require(holds: bool, rule: str, found: object) -> None:
    """Refuse a package of which a rule does not hold."""
    if not holds:
        raise ValueError(f"a package must {rule}: got {found}; use another, or a model of ours")


def network_of(model: Any, program: Program, program_bytes: int) -> PackagedSettings:
    """Return the settings of a package's network.

    Parameters
    ----------
    model : bioimageio.spec.model.v0_5.ModelDescr
    program : "torchscript" or "onnx"
    program_bytes : int
        Of its file, mostly float32 weights.

    Raises
    ------
    ValueError
        If it has several inputs or outputs, other axes than ours, or steps that cannot be taken
        exactly.
    """
    counts = len(model.inputs), len(model.outputs)
    require(counts == (1, 1), "have one input and one output", f"{counts[0]} and {counts[1]}")
    (given,), (made,) = model.inputs, model.outputs
    pad = given.pad.mode if given.pad else "reflect"
    require(pad == "reflect", "have its input mirrored, pad reflect", pad)
    input_axes, output_axes = axes_of(given), axes_of(made)
    spatial = [axis for axis in "zyx" if axis in input_axes]
    require(
        spatial == [axis for axis in "zyx" if axis in output_axes],
        "have an output of the axes of its input",
        f"{input_axes} and {output_axes}",
    )
    extents = [extents_of(given, made, axis) for axis in spatial]
    divisor, halo, minimum, crop, fixed = zip(*extents, strict=True)
    return PackagedSettings(
        network="packaged",
        dimensions=2 if len(spatial) == 2 else 3,
        width=width_of(program_bytes / 4, len(spatial)),
        program=program,
        program_bytes=program_bytes,
        input_axes=input_axes,
        output_axes=output_axes,
        divisor=divisor,
        halo=halo,
        minimum=minimum,
        crop=crop,
        fixed=any(fixed),
        before=tuple(preprocessing(given)[0]),
        after=tuple(step_of(step, made) for step in made.postprocessing if not is_cast(step)),
        background=None,
    )


def axes_of(tensor: Any) -> str:
    """Axes of an input or output, as b, c, z, y and x."""
    names = [str(axis.id) for axis in tensor.axes]
    kinds = {"batch": "b", "channel": "c"}
    found = "".join(
        kinds.get(axis.type) or (str(axis.id) if axis.type == "space" else "?")
        for axis in tensor.axes
    )
    known = sorted(set(found) - set("bc")) in (["x", "y"], ["x", "y", "z"])
    require(known and len(set(found)) == len(found), "have axes z, y, x or y, x", ", ".join(names))
    return found


def axis_of(tensor: Any, name: str) -> Any:
    """Axis of an input or output in space."""
    return next(axis for axis in tensor.axes if axis.type == "space" and axis.id == name)


def extents_of(given: Any, made: Any, name: str) -> tuple[int, int, int, int, bool]:
    """Divisor, halo, smallest extent, crop, and whether no other is admissible, of one axis."""
    axis, out = axis_of(given, name), axis_of(made, name)
    size, crop, fixed = axis.size, int(getattr(out, "halo", 0)), isinstance(axis.size, int)
    require(fixed or hasattr(size, "step"), "have sizes of their own along each axis", size)
    if isinstance(out.size, int):
        lost = size - out.size if fixed else -1
    else:
        same = out.size.tensor_id == given.id and out.size.axis_id == name
        same = same and math.isclose(axis.scale, out.scale)
        lost = -out.size.offset if same else -1
    rule = "have an output as large as its input, or smaller alike on both sides"
    require(lost >= 0 and lost % 2 == 0, rule, f"{out.size} along {name}")
    halo = crop + lost // 2
    if fixed:
        require(size > 2 * halo, "have inputs larger than their halo", f"{size} and {halo}")
        return size - 2 * halo, halo, size, crop, True
    # An even step is one too, and lets a U-Net stand for the network in plans.
    step = size.step * (1 + size.step % 2)
    below = max(2 * halo + 1 - size.min, 0)
    return step, halo, size.min + -(-below // size.step) * size.step, crop, False


def width_of(parameters: float, dimensions: int, depth: int = 4) -> int:
    """Width of a U-Net of so many parameters, which grow with its square."""
    kernel, levels = 3**dimensions, sum(4**level for level in range(depth))
    # Per level two convolutions down, two up, and an up-convolution.
    of_width_one = kernel * (1 + 6 * levels) + (3 * kernel + 2 * 2**dimensions) * levels
    return min(max(round(math.sqrt(parameters / of_width_one)), 1), 512)


def is_cast(step: Any) -> bool:
    """Whether a step makes float32 of values, which they are."""
    return bool(step.id == "ensure_dtype" and step.kwargs.dtype == "float32")


def preprocessing(given: Any) -> tuple[list[Step], dict[str, Any]]:
    """Steps that the network takes, and the `intensity` of a model that normalises before them."""
    steps: list[Step] = []
    intensity: dict[str, Any] = {"source": "training", "epsilon": 0.0}
    for step in given.preprocessing:
        if step.id in STATISTICS:
            # Of what: the specification says of the values so far, bioimageio.core of the raw ones.
            first = not steps and intensity["source"] == "training"
            require(first, f"have {step.id} before other steps, and once", "others before it")
            over_volume(step, given)
            intensity = statistics(step) | {"epsilon": step.kwargs.eps}
        elif not is_cast(step):
            steps.append(step_of(step, given))
    return steps, intensity


def over_volume(step: Any, given: Any) -> None:
    """Refuse a statistic that is not one of each channel of a whole volume."""
    names = {str(axis.id): axis.type for axis in given.axes}
    over = [str(axis) for axis in step.kwargs.axes or names]
    spatial = {name for name, kind in names.items() if kind == "space"}
    channels = channels_of(given)
    together = any(names[name] == "channel" for name in over) and channels > 1
    rule = f"take {step.id} over the whole of each channel, as volumes are normalised here"
    require(spatial <= set(over) and not together, rule, ", ".join(over))
    other = getattr(step.kwargs, "reference_tensor", None)
    require(other in (None, given.id), f"take {step.id} of its input", other)


def statistics(step: Any) -> dict[str, Any]:
    """The settings of a normalisation by an image's own statistics."""
    if step.id == "zero_mean_unit_variance":
        return {"normalise": "zscore", "source": "image"}
    low, high = step.kwargs.min_percentile, step.kwargs.max_percentile
    percentiles = {"low_percentile": low, "high_percentile": high}
    return {"normalise": "percentile", "source": "image", **percentiles}


def step_of(step: Any, tensor: Any) -> Step:
    """Return what is done to each voxel by itself.

    Raises
    ------
    ValueError
        If a step is not of that kind.
    """
    of: Any = getattr(step, "kwargs", None)
    channel = [str(axis.id) for axis in tensor.axes if axis.type == "channel"]
    along = str(getattr(of, "axis", None) or "channel")
    per_channel = along in (*channel, "channel")
    if step.id == "sigmoid":
        return Step(kind="sigmoid")
    if step.id == "softmax" and per_channel:
        return Step(kind="softmax")
    if step.id == "scale_linear" and per_channel:
        return Step(kind="scale", gain=several(of.gain), offset=several(of.offset))
    if step.id == "fixed_zero_mean_unit_variance" and per_channel:
        pairs = list(zip(several(of.mean), several(of.std), strict=True))
        gains = tuple(1 / std for _, std in pairs)
        return Step(kind="scale", gain=gains, offset=tuple(-mean / std for mean, std in pairs))
    if step.id == "clip" and of.min_percentile is None and of.max_percentile is None:
        return Step(kind="clip", low=of.min, high=of.max)
    named = step.kwargs.dtype if step.id == "ensure_dtype" else along
    raise ValueError(
        "a package must take no step but float32, scale_linear, fixed or its volume's statistics, "
        f"clip, sigmoid and softmax of channels: got {step.id} ({named}), which is not to be had "
        "of each voxel by itself; use another, or a model of ours"
    )


def several(values: Any) -> tuple[float, ...]:
    """Return one value, or one for each channel, as a tuple."""
    return tuple(values) if isinstance(values, Sequence) else (float(values),)


def channels_of(tensor: Any) -> int:
    """How many channels an input or output has."""
    return next((len(axis.channel_names) for axis in tensor.axes if axis.type == "channel"), 1)


def classes_of(made: Any, output: NDArray[np.float32]) -> tuple[list[str], int | None]:
    """Names of the classes, background first, and the output's channel of background, if any.

    Where the channels share out a probability of one, background is the one of that name, else the
    first. Else each channel is a class of its own, and background is what none takes.

    Parameters
    ----------
    output : array (1, channels, *extents) of float32
        Test output.

    Raises
    ------
    ValueError
        If it holds no probabilities.
    """
    low, high = float(output.min()), float(output.max())
    rule = "give probabilities, from 0 to 1, after its steps"
    require(low >= -1e-4 and high <= 1 + 1e-4, rule, f"{low:.3g} to {high:.3g} in its test output")
    channels = [axis.channel_names for axis in made.axes if axis.type == "channel"]
    names = [str(name) for name in channels[0]] if channels else ["foreground"]
    shared = len(names) > 1 and np.allclose(output.sum(axis=1), 1, atol=1e-3)
    lower = [name.lower() for name in names]
    if not shared and "background" not in lower:
        return ["background", *names], None
    background = lower.index("background") if "background" in lower else 0
    return [names[background], *names[:background], *names[background + 1 :]], background


def facts_of(
    model: Any, network: PackagedSettings, tests: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Return a package's `model.json`, but for the digest of its weights.

    Parameters
    ----------
    tests : two arrays (1, channels, *extents) of float32
        Test input and test output.
    """
    (given,), (made,) = model.inputs, model.outputs
    names, background = classes_of(made, tests[1])
    channels = channels_of(given)
    spatial = [axis_of(given, axis) for axis in "zyx" if axis in network.input_axes]
    tile = [
        axis.minimum if network.fixed else axis.at_least(max(extent, axis.smallest_tile))
        for axis, extent in zip(network.geometry, tests[0].shape[2:], strict=True)
    ]
    return {
        "format": 1,
        "network": network.model_copy(update={"background": background}).model_dump(mode="json"),
        "channels": channels,
        "class_names": names,
        "voxel_size_um": {
            str(axis.id): axis.scale * MICROMETRES[axis.unit]
            for axis in spatial
            if axis.unit in MICROMETRES
        },
        "dataset": None,
        "intensity": {
            **IntensitySettings().model_dump(mode="json"),
            "offset": [0.0] * channels,
            "scale": [1.0] * channels,
            **preprocessing(given)[1],
        },
        "tile": tile,
        "threshold": 0.5,
    }

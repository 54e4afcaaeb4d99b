"""Labelled images that look like microscopy, for the demo and for the tests.

Lengths are pixels of the row and column axes, levels are 8-bit grey values. The constants below
were chosen by comparing histogram, spectrum, object size and outline width with the ISBI 2012
training stack ("membranes") and the annotated frames of PhC-C2DH-U373 ("cells").
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse, special
from skimage import measure

from unetflow.datasets.toy import draw_shapes

Volume = tuple[int, int, int]
Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

# Below this an image holds no whole object and its outline.
MIN_EXTENT = 16
# Fewer pixels than this are a sliver between two outlines, which nobody would annotate.
MIN_OBJECT = 12


def synthesize(
    texture: str, shape: tuple[int, ...], seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return a synthetic micrograph and its instances.

    ``"membranes"`` resembles serial-section electron microscopy of neural tissue: a dense tiling of
    cells behind dark membranes, of which some are faint, with mitochondria and vesicles that are
    just as dark. A membrane is background, so that within a plane no two cells are 4-connected.
    ``"cells"`` resembles phase contrast: sparse cells with protrusions and a halo, among debris;
    cells may touch, and then share a border without background between them. ``"circles"`` and
    ``"rectangles"`` are bright shapes in noise, of which none overlap.

    Memory peaks at about 90 bytes per voxel.

    Parameters
    ----------
    texture : {"membranes", "cells", "circles", "rectangles"}
        What the image looks like.
    shape : tuple of int
        ``(rows, columns)`` or ``(planes, rows, columns)``; rows and columns are at least 16. In a
        stack objects continue from plane to plane and drift, as in sections thicker than a pixel.
        Objects shrink with images of fewer than 160 rows or columns, so that several fit.
    seed : int
        Not negative. Same seed, texture and shape give the same bytes.

    Returns
    -------
    image : ndarray of uint8
        Grey levels, of the given shape.
    instances : ndarray of uint32
        Ids 1, 2, ..., n of connected objects and 0 for background, of the given shape. Of images
        as small as 16 x 16 about one in 600 has no object.

    Raises
    ------
    ValueError
        If the texture is unknown, the shape has not 2 or 3 axes or is too small.

    Examples
    --------
    >>> image, instances = synthesize("membranes", (64, 96), seed=1)
    >>> image.shape, str(image.dtype), int(instances.min())
    ((64, 96), 'uint8', 0)
    """
    if texture not in _TEXTURES:
        raise ValueError(
            f"texture must be one of {', '.join(_TEXTURES)}: got {texture!r}; "
            "correct the synthetic dataset's texture"
        )
    if len(shape) not in (2, 3) or min(shape) < 1 or min(shape[-2:]) < MIN_EXTENT:
        raise ValueError(
            "shape must be (rows, columns) or (planes, rows, columns) with at least "
            f"{MIN_EXTENT} rows and columns: got {shape}; correct the synthetic dataset's shape"
        )
    rows, columns = shape[-2:]
    planes = shape[0] if len(shape) == 3 else 1
    image, instances = _TEXTURES[texture]((planes, rows, columns), np.random.default_rng(seed))
    return image.reshape(shape), instances.reshape(shape)


def _membranes(
    shape: Volume, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    cells = _tile_cells(shape, rng)
    outline = np.zeros(shape, bool)
    outline[:, :-1] |= cells[:, :-1] != cells[:, 1:]
    outline[:, :, :-1] |= cells[:, :, :-1] != cells[:, :, 1:]
    distance = _distance_within_planes(~outline)

    # A membrane that is cut obliquely is wide and faint, one that is cut across is narrow and dark.
    oblique = special.expit(3 * _smooth_noise(shape, (3, 35, 35), rng) - 3.2)
    oblique *= min(1, min(shape[1:]) / 64)  # such a patch would cover a tiny image whole
    # The outline itself stays background at every width, which is what separates the cells.
    instances = measure.label(np.where(distance > 2.0 + 2.6 * oblique, cells, 0), connectivity=1)
    instances = _renumber(instances, np.bincount(instances.ravel()) >= MIN_OBJECT)

    level = 151 + 11 * rng.standard_normal(int(cells.max()) + 1, np.float32)[cells]
    level += 9 * _smooth_noise(shape, (1, 7, 7), rng) + 20 * _grain(shape, 1.0, rng)
    _paint_mitochondria(level, cells, distance, rng)
    crowding = np.clip(_smooth_noise(shape, (3, 50, 50), rng), 0, None) * (distance > 5)
    _paint_rings(level, crowding, len(np.flatnonzero(crowding)) // 110, 5.0, -55, rng)
    depth = (1 - 0.55 * oblique) * (98 + 16 * _smooth_noise(shape, (2, 18, 18), rng))
    level -= depth * np.exp(-((distance / (2.7 + 3.4 * oblique)) ** 2))
    # Synapses and stain precipitate: soft dark patches that cover membrane and cytoplasm alike.
    level -= 55 * np.clip(_smooth_noise(shape, (2, 22, 22), rng) - 1.5, 0, 1.2)
    level += 9 * _smooth_noise(shape, (2, 160, 160), rng)
    return _expose(level, 0.65, 6.5, rng), instances


def _tile_cells(shape: Volume, rng: np.random.Generator) -> Labels:
    """Cells 1, 2, ... without gaps: each pixel takes the nearest disc, then all is warped."""
    planes, rows, columns = shape
    size = float(np.clip(min(rows, columns) / 160, 0.5, 1))
    margin = round(60 * size) + 4
    extent = np.array([rows + 2 * margin, columns + 2 * margin])
    mean_area = np.pi * (17 * size) ** 2
    radii = np.sort(rng.lognormal(np.log(13 * size), 0.7, int(2.2 * extent.prod() / mean_area)))
    # At most a third of the image, so that the smallest holds an outline too.
    radii = np.clip(radii, 8 * size, min(80 * size, min(rows, columns) / 3))
    centres, radii = _pack_discs(extent, radii[::-1], rng)
    # Swelling and vanishing along the stack, so that cells begin and end as neurites do.
    swelling = _smooth_noise((len(radii), planes, 1), (1e-3, 5, 1), rng)[..., 0]

    cells = np.empty(shape, np.int32)
    row, column = np.indices((rows, columns), np.float32)
    drift = [
        14 * size * _smooth_noise(shape, (5, 60 * size, 60 * size), rng)
        + 2.2 * size * _smooth_noise(shape, (3, 10 * size, 10 * size), rng)
        for _ in range(2)
    ]
    for plane in range(planes):
        canvas = np.zeros(tuple(extent), np.int32)
        for index, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
            disc = radius * (0.85 + 0.2 * swelling[index, plane])
            # A large cell never vanishes: its neighbours would meet in a star.
            if disc > 0.5 * radius or radius > 16 * size:
                _draw_disc(canvas, centre, max(disc, 0.6 * radius), index + 1)
        nearest = ndimage.distance_transform_edt(
            canvas == 0, return_distances=False, return_indices=True
        )
        source_row = np.clip(row + margin + drift[0][plane], 0, extent[0] - 1).astype(int)
        source_column = np.clip(column + margin + drift[1][plane], 0, extent[1] - 1).astype(int)
        cells[plane] = canvas[tuple(nearest)][source_row, source_column]
    return cells


def _pack_discs(
    extent: NDArray[np.int64], radii: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and radii of the discs that found a place free of overlap, given largest first."""
    centres = np.empty((len(radii), 2))
    placed: list[int] = []
    for index, radius in enumerate(radii):
        tries = rng.random((24, 2)) * extent
        gaps = np.linalg.norm(tries[:, None] - centres[placed], axis=2) - radii[placed]
        free = np.flatnonzero((gaps > radius).all(axis=1))
        if len(free):
            centres[index] = tries[free[0]]
            placed.append(index)
    return centres[placed], radii[placed]


def _draw_disc(canvas: Labels, centre: NDArray[np.float64], radius: float, label: int) -> None:
    """Write `label` into `canvas` within `radius` of `centre`, at least on the pixel there."""
    window = _window(centre, radius + 1, canvas.shape)
    row, column = np.ogrid[window]
    reach = max(radius, 0.8)
    canvas[window][(row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= reach**2] = label


def _paint_mitochondria(
    level: Floats, cells: Labels, distance: Floats, rng: np.random.Generator
) -> None:
    """Darken striped ellipsoids in `level`, each inside one cell."""
    planes, rows, columns = level.shape
    free = distance > 3
    for _ in range(round(rows * columns / 24000 * (planes + 7) / 8)):
        long, short = rng.uniform(15, 32), rng.uniform(10, 17)
        middle, length = int(rng.integers(planes)), rng.uniform(3, 9)
        roomy = np.flatnonzero((distance[middle] > 1.1 * short) & free[middle])
        if not len(roomy):
            continue
        centre = np.divmod(rng.choice(roomy), columns)
        angle, stripes = rng.uniform(0, np.pi), rng.uniform(4, 7)
        window = _window(centre, long, (rows, columns))
        row, column = np.ogrid[window]
        row, column = row - centre[0], column - centre[1]
        along = row * np.sin(angle) + column * np.cos(angle)
        across = row * np.cos(angle) - column * np.sin(angle) + along**2 / (6 * long)
        cristae = 13 * np.sin(2 * np.pi * along / stripes + across / 3)
        cell = cells[middle, centre[0], centre[1]]
        for plane in range(planes):
            taper = 1 - ((plane - middle) / length) ** 2
            if taper <= 0:
                continue
            radius = np.sqrt(((along / long) ** 2 + (across / short) ** 2) / taper)
            inside = (radius < 1) & (cells[plane][window] == cell) & free[plane][window]
            free[plane][window] &= ~inside
            dark = 48 + cristae + 35 * np.exp(-(((radius - 0.93) / 0.08) ** 2))
            level[plane][window] -= inside * dark


def _paint_rings(
    level: Floats,
    density: Floats,
    count: int,
    largest: float,
    contrast: float,
    rng: np.random.Generator,
) -> None:
    """Add `count` rings of one plane to `level`, placed in proportion to `density`."""
    cumulative = np.cumsum(density, dtype=np.float64)
    if not count or not cumulative[-1]:
        return
    chosen = np.searchsorted(cumulative, rng.random(count) * cumulative[-1])
    plane, row, column = np.unravel_index(chosen, level.shape)
    radius = rng.uniform(0.5, largest, (count, 1, 1))
    strength = contrast * rng.uniform(0.3, 1.0, (count, 1, 1))
    offset = np.arange(-8, 9)
    ring = np.exp(-(((np.hypot(offset[:, None], offset) - radius) / 1.2) ** 2)) * strength
    rows = row[:, None, None] + offset[:, None]
    columns = column[:, None, None] + offset
    valid = (rows >= 0) & (rows < level.shape[1]) & (columns >= 0) & (columns < level.shape[2])
    plane, rows, columns = np.broadcast_arrays(plane[:, None, None], rows, columns)
    np.add.at(level, (plane[valid], rows[valid], columns[valid]), ring[valid].astype(np.float32))


def _cells(shape: Volume, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    blobs, core, rounded = _draw_blobs(shape, rng)
    # Ragged outlines shed islands, which nobody would count as cells.
    instances = _keep_largest_pieces(blobs)

    inside = _distance_within_planes(instances > 0)
    outside = _distance_within_planes(instances == 0)
    ball = rounded[blobs]
    core = core * (1 + 0.06 * _smooth_noise(shape, (2, 12, 12), rng))
    nucleus = special.expit(14 * (1 - core))
    grain = _grain(shape, 1.2, rng)
    clumps = np.clip(0.5 + 0.6 * _smooth_noise(shape, (2, 9, 9), rng) + 0.5 * grain, 0, 2)
    lit = np.clip(0.7 + 0.9 * _smooth_noise(shape, (3, 26, 26), rng), 0, 2.5)

    level = 83 + 2.0 * _smooth_noise(shape, (4, 220, 220), rng) + 0.5 * grain
    everywhere = np.ones(shape, np.float32)
    for radius, contrast in ((1.5, -45), (2.5, 60), (6, -9)):
        _paint_rings(level, everywhere, level.size // 22000, radius, contrast, rng)
    halo = 26 * np.exp(-outside / 3) + 10 * np.exp(-outside / 11)
    # The thick middle of a cell shines most, and a thin protrusion hardly.
    level += (instances == 0) * halo * lit * (0.5 + 2 * np.exp(-np.clip(core - 1, 0, 9)))
    cytoplasm = 3 * _smooth_noise(shape, (2, 6, 6), rng) + 3 * grain - 2
    cytoplasm -= 60 * clumps * np.exp(-inside / 2.6) * np.clip(core - 1.2, 0.15, 1)
    cytoplasm += nucleus * (20 * grain + 9 * _smooth_noise(shape, (2, 25, 25), rng) - 12)
    crescent = np.exp(-(((core - 1.05) / 0.13) ** 2)) * np.maximum(0.55 * lit, ball)
    cytoplasm += 105 * crescent * np.minimum(inside / 2, 1)
    level += (instances > 0) * cytoplasm
    return _expose(level, 0.6, 0.8, rng), instances


def _draw_blobs(shape: Volume, rng: np.random.Generator) -> tuple[Labels, Floats, Floats]:
    """Labels, distance to the nearest cell's centre in nucleus radii, and who is rounded up (1)."""
    planes, rows, columns = shape
    size = float(np.clip(min(rows, columns) / 160, 0.2, 1))
    # A plane counts as 4 pixels deep. About 12 % of the image is covered.
    extent = np.array([4 * (planes - 1), rows, columns])
    depth = extent[0] / (50 * size) + 1
    count = max(1, round(0.12 * rows * columns / (3000 * size**2) * depth))
    labels = np.zeros(shape, np.int32)
    nearest = np.ones(shape, np.float32)
    core = np.full(shape, 9, np.float32)
    rounded = (rng.random(count + 1) < 0.15).astype(np.float32)
    ragged = 1 + 0.13 * _smooth_noise(shape, (2, 14, 14), rng)
    ragged = np.maximum(ragged + 0.07 * _smooth_noise(shape, (1, 4, 4), rng), 0.7)
    in_plane = np.array([float(planes > 1), 1, 1])
    centre = extent * rng.uniform(0.25, 0.75, 3)
    for label in range(1, count + 1):
        radius = size * rng.uniform(17, 26)
        # Every third cell lies beside the one before, as after a division, so that cells touch.
        step = rng.standard_normal(3) * in_plane
        beside = centre + step / np.linalg.norm(step) * 1.7 * radius
        centre = beside if label % 3 == 0 else extent * rng.random(3) if label > 1 else centre
        reach = 2.9 * radius
        window = _window(centre / (4, 1, 1), reach / np.array([4, 1, 1]), shape)
        offsets = np.stack(np.broadcast_arrays(*np.ogrid[window]), -1)
        offsets = (offsets * (4, 1, 1) - centre).astype(np.float32)
        distance = np.linalg.norm(offsets, axis=-1)
        outline = np.full(distance.shape, 0.72 * radius)
        if not rounded[label]:
            for _ in range(rng.integers(3, 7)):
                arm = rng.standard_normal(3) * in_plane
                cosine = offsets @ (arm / np.linalg.norm(arm)) / np.maximum(distance, 1e-3)
                outline += (
                    radius * rng.uniform(0.4, 1.4) * np.exp(rng.uniform(3, 14) * (cosine - 1))
                )
        relative = distance / np.minimum(outline, 2 * radius) * ragged[window]
        mine = relative < nearest[window]
        labels[window][mine] = label
        nearest[window][mine] = relative[mine]
        core[window] = np.minimum(core[window], distance / (0.5 * radius))
    return labels, core, rounded


def _window(
    centre: Sequence[float] | NDArray[np.float64],
    reach: float | NDArray[np.float64],
    shape: tuple[int, ...],
) -> tuple[slice, ...]:
    """Slices of what lies within `reach` of `centre`, perhaps empty."""
    low = np.clip(np.floor(np.subtract(centre, reach)), 0, shape).astype(int)
    high = np.clip(np.ceil(np.add(centre, reach)) + 1, low, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _smooth_noise(
    shape: tuple[int, ...], scales: tuple[float, ...], rng: np.random.Generator
) -> Floats:
    """Gaussian noise of unit variance whose cubic B-splines have knots `scales` apart."""
    bases = [_spline_basis(extent, scale) for extent, scale in zip(shape, scales, strict=True)]
    field = rng.standard_normal([basis.shape[1] for basis in bases], np.float32)
    # Sparse products, since those of BLAS may differ between numbers of threads.
    for basis in bases:
        rest = field.shape[1:]
        field = np.moveaxis((basis @ field.reshape(len(field), -1)).reshape(-1, *rest), 0, -1)
    return np.ascontiguousarray(field, np.float32)


def _spline_basis(extent: int, scale: float) -> sparse.csr_array:
    position = np.arange(extent) / scale
    knot = position.astype(int)
    t = position - knot
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    columns = knot[:, None] + np.arange(4)
    rows = np.repeat(np.arange(extent), 4)
    return sparse.csr_array(
        (weights.ravel().astype(np.float32), (rows, columns.ravel())),
        shape=(extent, int(knot[-1]) + 4),
    )


def _grain(shape: Volume, sigma: float, rng: np.random.Generator) -> Floats:
    """Gaussian noise of about unit variance without correlation between planes."""
    white = rng.standard_normal(shape, np.float32)
    white *= 2 * np.sqrt(np.pi) * sigma
    return np.asarray(ndimage.gaussian_filter(white, (0, sigma, sigma)))


def _distance_within_planes(mask: NDArray[np.bool_]) -> Floats:
    """Distance to the nearest pixel outside of `mask` in its plane, 1000 where there is none."""
    distance = np.full(mask.shape, 1e3, np.float32)
    for plane, within in enumerate(mask):
        if not within.all():
            distance[plane] = ndimage.distance_transform_edt(within)
    return distance


def _keep_largest_pieces(blobs: Labels) -> NDArray[np.uint32]:
    """Consecutive ids for the largest connected piece of each label."""
    pieces = measure.label(blobs, connectivity=1)
    sizes = np.bincount(pieces.ravel())
    owner = np.zeros(len(sizes), np.int32)
    owner[pieces.ravel()] = blobs.ravel()
    largest = np.zeros(int(blobs.max()) + 1, np.int64)
    # Of the values assigned to one element the last stays, which is the largest piece.
    by_size = np.argsort(sizes, kind="stable")
    largest[owner[by_size]] = by_size
    kept = np.isin(np.arange(len(sizes)), largest[1:]) & (sizes >= MIN_OBJECT)
    return _renumber(pieces, kept)


def _renumber(instances: NDArray[np.integer], kept: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Consecutive ids for the kept labels, 0 for the others."""
    kept[0] = False
    ids = (np.cumsum(kept) * kept).astype(np.uint32)
    renumbered: NDArray[np.uint32] = ids[instances]
    return renumbered


def _expose(
    level: Floats, blur: float, read_noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Blur within planes, then add shot and read noise."""
    level = ndimage.gaussian_filter(level, (0, blur, blur))
    # Shot noise as its normal limit: at these levels Poisson draws look the same and take longer.
    noise = np.sqrt(read_noise**2 * (1 + np.clip(level, 0, 255) / 128))
    level += noise * rng.standard_normal(level.shape, np.float32)
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)


_TEXTURES: dict[
    str,
    Callable[[Volume, np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.uint32]]],
] = {
    "membranes": _membranes,
    "cells": _cells,
    "circles": partial(draw_shapes, round_ones=True),
    "rectangles": partial(draw_shapes, round_ones=False),
}

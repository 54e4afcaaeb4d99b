"""Elastic deformation of an image and its labels: one compiled resampling against the peers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from harness import Prepared, Skip, compare, write
from numpy.typing import NDArray
from scipy import ndimage

from unetflow.elastic import Deformation, draw
from unetflow.resampling import Interpolation, resample
from unetflow.settings.training import PatchesSettings

SETTINGS = PatchesSettings(elastic_sigma=8, elastic_grid=5, rotation_degrees=0, mirror=False)
CORES = os.cpu_count() or 1
Case = tuple[NDArray[np.float32], NDArray[np.uint8]]


def waves(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """A sum of waves of 7 to 40 pixels at any coordinates (n, ...): the truth between pixels."""
    generator = np.random.default_rng(0)
    total = np.zeros(points.shape[1:])
    for _ in range(12):
        direction = generator.normal(size=len(points))
        direction *= 2 * np.pi / generator.uniform(7, 40) / np.linalg.norm(direction)
        total += np.cos(np.tensordot(direction, points, 1) + generator.uniform(0, 6))
    return total


def drawn(shape: tuple[int, ...]) -> Deformation:
    """Displacements of every method that takes them: those of one seed, without shift."""
    centre = [extent // 2 - 1 for extent in shape]
    return draw(shape, centre, SETTINGS, np.random.default_rng(1))


def ours(case: Case, interpolation: Interpolation) -> Prepared:
    """Draw, deform the image, deform the labels, on one thread."""
    image, labels = case

    def run() -> tuple[NDArray[Any], NDArray[Any]]:
        deformation = drawn(image.shape)
        return (
            resample(image, deformation, interpolation),
            resample(labels, deformation, "nearest"),
        )

    return Prepared(run, error(run()[0], drawn(image.shape).points()))


def at_once(case: Case) -> Prepared:
    """As many patches at once as there are cores."""
    run = ours(case, "spline").run

    def several() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda _: run(), range(CORES)))

    return Prepared(several, f"{CORES} patches, on as many threads", 1 / CORES)


def error(found: NDArray[Any], points: NDArray[np.floating]) -> str:
    """Root mean square of what an interpolation is off, away from the border, against the truth."""
    truth = waves(points)
    extents = np.reshape(truth.shape, (-1, *(1,) * truth.ndim))
    inside = ((points > 12) & (points < extents - 13)).all(axis=0)
    relative = np.sqrt(np.mean((found - truth)[inside] ** 2)) / truth[inside].std()
    return f"error {relative:.1e}"


def elasticdeform(case: Case) -> Prepared:
    """`deform_grid` with the same displacements, spline of degree 3 and nearest."""
    import elasticdeform

    image, labels = case
    grid = (SETTINGS.elastic_grid,) * image.ndim

    def run() -> list[NDArray[Any]]:
        shift = np.random.default_rng(1).normal(0, SETTINGS.elastic_sigma, (image.ndim, *grid))
        found: list[NDArray[Any]] = elasticdeform.deform_grid(
            [image, labels], shift, order=[3, 0], mode="mirror"
        )
        return found

    return Prepared(run, error(run()[0], drawn(image.shape).points()))


def scipy_calls(case: Case) -> Prepared:
    """`map_coordinates` at given points."""
    image, labels = case
    points = drawn(image.shape).points()

    def run() -> NDArray[Any]:
        ndimage.map_coordinates(labels, points, order=0, mode="mirror")
        found: NDArray[Any] = ndimage.map_coordinates(image, points, order=3, mode="mirror")
        return found

    return Prepared(run, error(run(), points) + "; points given")


def opencv(case: Case) -> Prepared:
    """`remap`, cubic, at given points: 2D alone."""
    import cv2

    cv2.setNumThreads(1)

    image, labels = case
    if image.ndim == 3:
        raise Skip("2D alone")
    points = drawn(image.shape).points()
    rows, columns = points.astype(np.float32)

    def run() -> NDArray[Any]:
        border = cv2.BORDER_REFLECT_101
        cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=border)
        return np.asarray(cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=border))

    return Prepared(run, error(run(), points) + "; points given")


def albumentations(case: Case) -> Prepared:
    """`ElasticTransform`, cubic: 2D alone."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import cv2

    cv2.setNumThreads(1)

    image, labels = case
    if image.ndim == 3:
        raise Skip("2D alone")
    transform = albumentations.ElasticTransform(
        alpha=300, sigma=20, interpolation=cv2.INTER_CUBIC, p=1
    )
    return Prepared(lambda: transform(image=image, mask=labels))


def batchgenerators(case: Case) -> Prepared:
    """`augment_spatial`, order 3."""
    from batchgenerators.augmentations.spatial_transformations import augment_spatial

    image, labels = (part[None, None] for part in case)
    run = partial(
        augment_spatial,
        image,
        labels,
        case[0].shape,
        random_crop=False,
        do_rotation=False,
        do_scale=False,
        alpha=(200, 200),
        sigma=(10, 10),
        order_data=3,
        order_seg=0,
    )
    return Prepared(run)


def batchgeneratorsv2(case: Case) -> Prepared:
    """`SpatialTransform`, linear: it has no cubic."""
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    torch.set_num_threads(1)
    image, labels = (torch.from_numpy(part)[None] for part in case)
    transform = SpatialTransform(
        case[0].shape,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=1,
        p_rotation=0,
        p_scaling=0,
    )
    return Prepared(
        lambda: transform(image=image, segmentation=labels.to(torch.int16)),
        "linear: it has no cubic",
    )


def monai(case: Case) -> Prepared:
    """`Rand2DElastic` or `Rand3DElastic`, linear."""
    import torch
    from monai.transforms import Rand2DElastic, Rand3DElastic

    torch.set_num_threads(1)
    image, labels = (torch.from_numpy(part)[None].float() for part in case)
    transform: Any = (
        Rand2DElastic(spacing=(100, 100), magnitude_range=(5, 10), prob=1)
        if case[0].ndim == 2
        else Rand3DElastic(sigma_range=(5, 8), magnitude_range=(50, 150), prob=1)
    )

    def run() -> None:
        transform.set_random_state(0)
        transform(image, mode="bilinear")
        transform.set_random_state(0)
        transform(labels, mode="nearest")

    return Prepared(run, "linear")


def torchio(case: Case) -> Prepared:
    """`RandomElasticDeformation`: 3D alone."""
    import SimpleITK
    import torch
    import torchio

    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    if case[0].ndim == 2:
        raise Skip("3D alone")
    image, labels = (torch.from_numpy(part)[None] for part in case)
    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=image), labels=torchio.LabelMap(tensor=labels)
    )
    transform = torchio.RandomElasticDeformation(
        num_control_points=7, image_interpolation="bspline"
    )
    return Prepared(lambda: transform(subject), "B-spline")


def main() -> None:
    """Compare in 2D and 3D."""
    methods: Mapping[str, Callable[[Case], Prepared]] = {
        "unetflow, spline": partial(ours, interpolation="spline"),
        "unetflow, cubic convolution": partial(ours, interpolation="convolution"),
        "unetflow, spline, per patch of several at once": at_once,
        "elasticdeform": elasticdeform,
        "scipy map_coordinates": scipy_calls,
        "cv2.remap": opencv,
        "albumentations": albumentations,
        "batchgenerators": batchgenerators,
        "batchgeneratorsv2": batchgeneratorsv2,
        "MONAI": monai,
        "TorchIO": torchio,
    }
    rows = []
    for shape in ((512, 512), (64, 64, 64), (128, 128, 128)):
        image = waves(np.indices(shape).astype(float)).astype(np.float32)
        case = image, (image > 0).astype(np.uint8)
        rows += compare(
            "×".join(map(str, shape)),
            {name: partial(prepare, case) for name, prepare in methods.items()},
        )
    write("elastic", rows)


if __name__ == "__main__":
    main()

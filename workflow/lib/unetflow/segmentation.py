"""Instances of predicted images and volumes, with tables of what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from unetflow.joining import Joined
from unetflow.labelling import Index
from unetflow.objects import object_table, require_parquet, write_table
from unetflow.outliers import unlike_training
from unetflow.outlines import WRITTEN, write_outlines
from unetflow.packs import Pack
from unetflow.predicted import summary_of
from unetflow.progress import track
from unetflow.seams import seam_evidence
from unetflow.settings.prediction import SegmentSettings
from unetflow.stitching import division_of, join_blocks, label_blocks
from unetflow.store import Image, open_image, read_json, remove, replacing, write_json, write_text
from unetflow.thumbnails import draw_thumbnail
from unetflow.volumes import choice_of, open_volume, parse_region
from unetflow.voxels import resampled


def segment_image(
    prediction: Path,
    output: Path,
    model: Mapping[str, Any],
    settings: SegmentSettings,
    pixels: Image | None = None,
    parts: Sequence[Path] = (),
) -> Joined:
    """Write the instances of a predicted image as OME-Zarr, complete or absent.

    Parameters
    ----------
    prediction, model, settings, pixels
        See `division_of`.
    parts : sequence of Path, optional
        Folders of `segment_part`, if others have labelled the blocks.
    """
    of = division_of(prediction, model, settings, pixels)
    blocks = of.grid.blocks
    with replacing(output) as partial:
        own = partial / "blocks"
        if not parts:
            label_blocks(of, blocks, own)
        folders = {
            index: path
            for number, path in enumerate(parts or [own])
            for index in part_of(blocks, number, len(parts) or 1)
        }
        joined = join_blocks(of, folders, partial)
        remove(own)
    return joined


def part_of(blocks: Sequence[Index], number: int, count: int) -> Sequence[Index]:
    """Blocks of one of `count` jobs that share them."""
    return blocks[len(blocks) * number // count : len(blocks) * (number + 1) // count]


def segment_part(
    facts: Mapping[str, Any],
    prediction: Path,
    output: Path,
    part: tuple[int, int],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Label the blocks of a large volume that are one job's; `segment_volume` joins them.

    Parameters
    ----------
    facts : mapping
        How its prediction went; of one that failed the folder is empty.
    output : Path
        Folder, complete or absent.
    part : tuple of int
        Number of the job from 0, and how many there are.
    """
    with replacing(output) as partial:
        partial.mkdir()
        if not facts["reason"]:
            volume = volume_of(facts["volume"], prediction)
            of = division_of(prediction, model, settings, volume)
            label_blocks(of, part_of(of.grid.blocks, *part), partial)


def segment_images(
    predictions: Sequence[Path],
    images: Path,
    outputs: Mapping[str, Path],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Write the instances of several predicted images, and one table of their objects.

    Parameters
    ----------
    images : Path
        Folder of the images, each of the name of its prediction.
    outputs : mapping
        Paths of `segmentation`, a folder that is complete or absent, and `objects`. Beside it,
        where `settings.outlines` asks for it, comes the folder `outlines`.
    """
    require_parquet(settings)
    tables = []
    with replacing(outputs["segmentation"]) as partial:
        partial.mkdir()
        for path in track(predictions, "segmenting images", len(predictions)):
            output, pixels = partial / path.name, open_image(images / path.name)
            joined = segment_image(path, output, model, settings, pixels)
            tables.append(object_table(joined.objects, open_image(output)))
            tables[-1].insert(0, "image", path.name)
    write_table(pd.concat(tables, ignore_index=True), outputs["objects"], settings)
    folder = outputs["segmentation"].with_name("outlines")
    remove(folder)
    if settings.outlines != "none":
        with replacing(folder) as partial:
            for path in predictions:
                image = open_image(outputs["segmentation"] / path.name)
                write_outlines(image, partial / path.name, settings.outlines)


def segment_volume(
    facts: Mapping[str, Any],
    prediction: Path,
    parts: Sequence[Path],
    outputs: Mapping[str, Path],
    model: Mapping[str, Any],
    settings: SegmentSettings,
) -> None:
    """Write an archive volume's instances, its table of objects, and its summary.

    Grey values in the table are those of the volume, read once more, a block at a time.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `blocks.finish_prediction`. If it failed, so has the volume:
        its segmentation is an empty group.
    parts : sequence of Path
        Folders of `segment_part`; none where all blocks are this job's.
    outputs : mapping
        Paths of `segmentation`, `objects`, `merges` (what was joined at the seams of blocks),
        `seams` (see `seam_evidence`) and `summary`, which says "state" and "reason". Beside the
        first comes `thumbnail.webp` and, where `settings.outlines` asks for it, `outlines.zip` or
        `outlines.geojson`.
    """
    reason = facts["reason"]
    require_parquet(settings)
    table, merges, seams = pd.DataFrame({"label": []}), "axis\n", "distance\n"
    found: dict[str, Any] = {
        "objects": None,
        "median_size": None,
        "foreground": None,
        "outlier": "",
    }
    if reason:
        zarr.create_group(outputs["segmentation"], overwrite=True, attributes={"reason": reason})
    else:
        volume = volume_of(facts["volume"], prediction)
        output = outputs["segmentation"]
        joined = segment_image(prediction, output, model, settings, volume, parts)
        table = object_table(joined.objects, open_image(outputs["segmentation"]))
        merges = str(joined.merges.to_csv(sep="\t", index=False, float_format="%.6g"))
        seams = str(seam_evidence(joined.grid, joined.objects).to_csv(sep="\t", index=False))
        found = statistics(joined, facts["volume"], volume, model)
    outlines = outputs["segmentation"].with_name("outlines")
    for ending in WRITTEN.values():
        remove(outlines.with_suffix(f".{ending}"))
    if settings.outlines != "none" and not reason:
        write_outlines(open_image(outputs["segmentation"]), outlines, settings.outlines)
    picture = outputs["segmentation"].with_name("thumbnail.webp")
    remove(picture)
    if not reason:
        draw_thumbnail(facts["volume"], outputs["segmentation"], picture)
    write_table(table, outputs["objects"], settings)
    write_text(outputs["merges"], merges)
    write_text(outputs["seams"], seams)
    write_json(outputs["summary"], summary_of(facts, found))


def segment_pack(
    pack: Pack, volumes: Sequence[str], model: Mapping[str, Any], settings: SegmentSettings
) -> None:
    """Divide small volumes that share a job into instances.

    Parameters
    ----------
    pack : Pack
        With the paths `facts`, `prediction` and the outputs of `segment_volume`.
    """

    def segment(volume: str, paths: Mapping[str, Path]) -> None:
        segment_volume(read_json(paths["facts"]), paths["prediction"], [], paths, model, settings)

    made_from = [model, settings.model_dump(mode="json")]
    results = [name for name in pack.paths if name != "prediction"]
    pack.each(segment, dict.fromkeys(volumes), made_from, results)


def statistics(
    joined: Joined, row: Mapping[str, Any], volume: Image | None, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is told of a volume's instances and grey values.

    Returns
    -------
    dict
        `objects`, how many; `median_size` in voxels, None without objects; `foreground`, their
        share of the volume, or of the region that is predicted; `outlier`, see `unlike_training`.
    """
    sizes = joined.objects["size"]
    outlier, voxels = "", math.prod(joined.grid.shape)
    if volume is not None:
        region = parse_region(row.get("region", ""), volume)
        mask = open_volume(row["mask"]) if row.get("mask") else None
        outlier = unlike_training(volume, model, region, mask)
        voxels = math.prod(part.stop - part.start for part in region) if region else voxels
    return {
        "objects": len(sizes),
        "median_size": float(np.median(sizes)) if len(sizes) else None,
        "foreground": round(float(sizes.sum()) / voxels, 6),
        "outlier": outlier,
    }


def volume_of(row: Mapping[str, Any], prediction: Path) -> Image | None:
    """Volume that a row of a sheet names, with voxels of the size in which it was predicted."""
    if not (prediction / "zarr.json").is_file():
        return None  # told by `division_of`
    size = open_image(prediction).voxel_size_um
    return resampled(open_volume(row["path"], **choice_of(row)), size)

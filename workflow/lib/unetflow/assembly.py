"""A volume's blocks made one OME-Zarr image, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from unetflow import axes as axis_rules
from unetflow import predicted
from unetflow.packs import Pack
from unetflow.pyramid import add_levels
from unetflow.regression import output_names
from unetflow.settings.prediction import PredictSettings
from unetflow.store import describe_image, read_json, remove, stored_bytes, write_json
from unetflow.volumes import choice_of, open_volume
from unetflow.voxels import resampled


def finish_prediction(
    row: Mapping[str, Any],
    receipts: Iterable[Path],
    model: Mapping[str, Any],
    settings: PredictSettings,
    prediction: Path,
    output: Path,
) -> None:
    """Make one OME-Zarr image of a volume's blocks, with coarser levels, and say how they went.

    Parameters
    ----------
    row : mapping
        The volume in the plan; its `reason` tells if it could not be planned.
    model : mapping
        Its `model.json`.
    prediction : Path
        Folder of what blocks have written. If any failed it stays, for when the volume is repaired,
        but is no image: the attribute `reason` of its group says why.
    output : Path
        JSON: `state`, `reason`, `volume` (its row without its blocks), `blocks`, `seconds` of all
        of them, and `waiting`, the largest share of the time in which a device waited for data.
    """
    facts = [read_json(path) for path in receipts]
    reasons = [row["reason"], *(fact["reason"] for fact in facts)]
    reason = "; ".join(dict.fromkeys(filter(None, reasons)))
    settings = predicted.stored_as(settings, model)
    if reason:
        attributes = {"reason": reason}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        write_json(prediction / "zarr.json", group)
    else:
        first = only_array(prediction, facts)
        keep_array(prediction, first)
        image = resampled(open_volume(row["path"], **choice_of(row)), settings.voxel_size_um)
        axes = "c" + axis_rules.spatial(image.axes)
        size, mean = image.voxel_size_um, settings.output != "classes"
        levels = add_levels(prediction, first, axes, size, mean)
        metadata = predicted.metadata(output_names(model), settings)
        describe_image(prediction, axes, size, levels, **metadata, means=mean)
    write_json(
        output,
        {
            "state": "failed" if reason else "done",
            "reason": reason,
            "volume": {key: value for key, value in row.items() if key != "blocks"},
            "blocks": len(facts),
            "seconds": round(sum(fact["seconds"] for fact in facts), 2),
            "waiting": max((fact["waiting"] for fact in facts), default=0.0),
        },
    )


def finish_pack(
    pack: Pack,
    rows: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    settings: PredictSettings,
) -> None:
    """Finish the predictions of small volumes that share a job.

    Parameters
    ----------
    pack : Pack
        With the paths `receipts`, a folder, `prediction`, its `metadata`, and `facts`.
    rows : mapping of volume to its row in the plan and, as `block`, the name of its only block
    """

    def finish(volume: str, paths: Mapping[str, Path]) -> None:
        row = rows[volume]
        receipt = paths["receipts"] / f"packed_{row['block']}.json"
        finish_prediction(row, [receipt], model, settings, paths["prediction"], paths["facts"])

    made_from = [model, settings.model_dump(mode="json")]
    pack.each(finish, rows, made_from, results=("facts", "metadata"))


def only_array(prediction: Path, receipts: Sequence[Mapping[str, Any]]) -> str:
    """Name of the array that all blocks have written, of which all shards are there.

    Raises
    ------
    ValueError
        If there are several, or shards are missing.
    """
    again = "predict again with `snakemake --forcerun predict_block predict_pack`"
    names = sorted({receipt["array"] for receipt in receipts})
    if len(names) > 1:
        raise ValueError(
            f"{prediction}: blocks must be predicted alike: found {len(names)} kinds, as machines "
            "with and without bf16 or OpenVINO give where predict.precision or predict.backend is "
            f"auto; set them, and {again}"
        )
    if not (prediction / names[0] / "zarr.json").is_file():
        raise ValueError(
            f"{prediction}: what blocks have written must be there: found nothing, as after "
            f"predict.keep was false; {again}"
        )
    array = zarr.open_array(prediction / names[0], mode="r")
    for receipt in receipts:
        for line in receipt["shards"]:
            place, size = line.split()
            found = stored_bytes(array, [int(first) for first in place.split("_")])
            if found != int(size):
                raise ValueError(
                    f"{prediction}: what blocks have written must be there: the shard at {place} "
                    f"has {found} bytes instead of {size}; {again}"
                )
    return str(names[0])


def drop_predictions(predictions: Iterable[Path], output: Path) -> None:
    """Remove predictions of volumes that are segmented; what remains says so.

    The journals of their blocks name files that are gone, so a block that runs again is predicted.
    """
    for prediction in predictions:
        remove(prediction)
    write_json(output, {"predictions": "removed, since predict.keep is false"})


def keep_array(prediction: Path, name: str) -> None:
    """Remove what models and settings of before have left in a volume's prediction."""
    for other in prediction.iterdir():
        if other.name not in (name, "zarr.json"):
            remove(other)

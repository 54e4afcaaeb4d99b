"""Which small volumes of an archive share their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unetflow.settings.experiment import ExperimentSettings
from unetflow.store import remove

OPENING_MINUTES = 0.01
"""To open a volume and create its array."""


def packs(
    planned: Mapping[str, Mapping[str, Any]],
    experiments: Mapping[str, ExperimentSettings],
    before: Mapping[str, str],
) -> dict[str, str]:
    """Small volumes, each with the first of those that share a job with it.

    They are taken in the order of the sheet, up to the work of a job to predict and to segment
    them. Packs that were made before stay as they are, as far as a job may still hold them: what is
    appended to a sheet is put into others.

    Parameters
    ----------
    before : mapping
        The same of an earlier plan.
    """
    small = {}
    for volume, plan in planned.items():
        share = share_of_job(plan, experiments[plan["experiment"]])
        if len(plan["blocks"]) == 1 and share <= 1 / 2:
            small[volume] = share
    found: dict[str, str] = {}
    used = dict.fromkeys(small, 0.0)
    newest: dict[tuple[str, str], str] = {}
    for volume in sorted(small, key=lambda name: before.get(name) != name):  # the first of each
        share = small[volume]
        network, first = network_of(planned[volume]), before.get(volume, "")
        alike = first in small and network_of(planned[first]) == network
        if not (alike and used[first] + share <= 1):
            first = newest.get(network, volume)
            if used[first] + share > 1:
                first = volume
            newest[network] = first
        found[volume] = first
        used[first] += share
    return found


def share_of_job(plan: Mapping[str, Any], experiment: ExperimentSettings) -> float:
    """Part of the work that one job may have which a volume takes, to predict or to segment it."""
    to_predict = minutes_to_predict(plan) / experiment.predict.block_minutes
    to_segment = plan.get("voxels", 0) / experiment.segment.job_megavoxels / 1e6
    return float(max(to_predict, to_segment))


def network_of(plan: Mapping[str, Any]) -> tuple[str, str]:
    """What a volume is predicted with: experiment and model that its row names."""
    return plan["experiment"], plan.get("model", "")


def minutes_to_predict(plan: Mapping[str, Any]) -> float:
    """Minutes of a core, or a GPU, that a volume is taken to need."""
    return float(plan.get("minutes", 0) + OPENING_MINUTES)


def remove_receipts(folder: Path) -> None:
    """Remove what says that a volume is done, whose jobs are others now.

    Else what those of before have made, maybe with other settings, would be taken for theirs.
    """
    names = ("intensity.json", "prediction.json", "summary.json", "metrics.tsv")
    for receipt in [*folder.glob("prediction_blocks/*.json"), *(folder / name for name in names)]:
        remove(receipt)

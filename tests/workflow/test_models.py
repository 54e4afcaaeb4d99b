"""Rows of a sheet that name a model: of ours, its package, and one that is of no use."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from project import Project

from unetflow.store import open_image

pytestmark = pytest.mark.workflow

SHEET = """volume\tpath\texperiment\tmodel\ttruth
own\tdataset:tiny/membranes0_000\t\tgiven\tdataset:tiny/membranes0_000
packed\tdataset:tiny/membranes0_000\ttiny-unweighted\tgiven.zip\t
missing\tdataset:tiny/membranes0_000\t\tnone.zip\t
"""
CONFIG = ("--config", "experiments=[]", "archives=[given]")


def test_a_row_with_a_model_is_segmented_without_a_training(project: Project) -> None:
    pytest.importorskip("bioimageio.core", reason="pip install 'unetflow[export]'")
    trained = "results/experiments/tiny/final/seed0"
    package = f"{trained}/export/tiny.zip"
    project.snakemake(package)
    shutil.copytree(project.path / trained, project.path / "given")
    shutil.copy(project.path / package, project.path / "given.zip")
    (project.path / "config/archives/given.tsv").write_text(SHEET)
    shutil.rmtree(project.path / "results/experiments")
    done = project.snakemake(*CONFIG, check=False)
    assert done.returncode != 0
    assert "1 of 3 volumes failed: missing: none.zip: a model must exist" in done.stdout
    assert "train_model" not in done.stdout
    folder = project.path / "results/archives"
    table = pd.read_csv(folder / "given/summary.tsv", sep="\t", index_col="volume")
    assert table["state"].to_dict() == {"own": "done", "packed": "done", "missing": "failed"}
    assert np.isfinite(table.loc["own", "dice_cell"])
    expected = np.asarray(open_image(folder / "tiny/first/prediction.ome.zarr").array[...])
    for volume in ("own", "packed"):
        found = open_image(folder / "given" / volume / "prediction.ome.zarr").array[...]
        np.testing.assert_array_equal(np.asarray(found), expected)
    assert "given.zip" in (project.path / "results/report/index.html").read_text()

    sheet = project.path / "config/archives/given.tsv"
    sheet.write_text("".join(SHEET.splitlines(keepends=True)[:3]))
    project.snakemake(*CONFIG)
    assert project.would_run(*CONFIG) == set()
    facts = project.path / "given/model.json"
    facts.write_text(re.sub('"threshold": [0-9.]+', '"threshold": 0.123', facts.read_text()))
    assert project.would_run(*CONFIG) >= {"adopt_model", "plan_archive", "summarise_archive"}

import gc
import hashlib
import json
import math
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError

from unetflow import experiments as settings_files
from unetflow import archive_summary, sheets, splits, states, volumes
from unetflow.datasets.registry import find_weights
from unetflow.geometry import geometry_to_json
from unetflow.provenance import code_digest
from unetflow.settings.experiment import ExperimentSettings, RunSettings
from unetflow.store import read_json

# Not workflow.basedir: as a module of another workflow that is where the other one lies.
ROOT = Path(str(workflow.current_basedir)).parents[1]
SCRIPTS = ROOT / "workflow/scripts"
REGISTRY = ROOT / "resources/datasets"


def in_one_line(function, *arguments):
    """Result of a library function; its ValueError ends Snakemake with one line, without a trace."""
    try:
        return function(*arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


RUN = in_one_line(settings_files.parse, RunSettings, config, "config/config.yaml")
OVERRIDE = Path(RUN.registry) if RUN.registry else None
FOLDER = Path("config/experiments")
CHOSEN = in_one_line(settings_files.load_experiments, FOLDER, RUN.experiments)
SHEETS = in_one_line(sheets.read_sheets, Path("config/archives"), RUN.archives, CHOSEN)
ARCHIVES = list(SHEETS)
# What a chosen variant shares with others of its file is always made under the same name. An experiment beside a model
# gives settings alone: nothing of it is made.
NAMED = {name for sheet in SHEETS.values() for name in sheets.beside_models(sheet)}
FAMILIES = in_one_line(
    settings_files.load_families, FOLDER, [*CHOSEN, *sorted(NAMED - set(CHOSEN))]
)
EXPERIMENTS = {name: family[name] for name, family in FAMILIES.items()}
in_one_line(settings_files.check_starts, CHOSEN, Path(RUN.results), FAMILIES)
DATASETS = in_one_line(settings_files.datasets_of, EXPERIMENTS, REGISTRY, OVERRIDE)
in_one_line(settings_files.check_regions, CHOSEN, DATASETS)
# A row that names a model alone has the settings of an experiment that sets nothing.
EXPERIMENTS[""] = ExperimentSettings(dataset="none")
MODELS = {
    sheets.model_name(row["model"]): row["model"]
    for sheet in SHEETS.values()
    for row in sheet
    if "model" in row
}
for sheet in SHEETS.values():
    for name in set(sheets.datasets_in(sheet)) - set(DATASETS):
        DATASETS[name] = in_one_line(
            settings_files.find_dataset, name, REGISTRY, OVERRIDE
        )


pathvars:
    results=RUN.results,
    logs=f"{RUN.results}/logs",
    costs=f"{RUN.results}/costs",


wildcard_constraints:
    dataset="[A-Za-z0-9_-]+",
    image="[A-Za-z0-9_-]+",
    weights="[A-Za-z0-9_-]+",
    experiment="[A-Za-z0-9_-]+",
    model="[A-Za-z0-9_-]+",
    split="fold[0-9]+|final",
    seed="[0-9]+",
    archive="[A-Za-z0-9_-]+",
    volume="[A-Za-z0-9_-]+",
    block="[0-9_]+",
    picture="prediction|segmentation",


# All that a graph consists of stays to its end: by looking for garbage in it again and again, Python would take a
# quarter of the time that many thousands of jobs do.
gc.set_threshold(50_000, 50, 100)


# A job of a cluster is a Snakemake of its own: it is tried again from outside, where it can get more than it had.
RETRIES = 2 if workflow.is_main_process else 0


def raised(amount):
    """Resource that grows with each attempt: a job that failed may have had too little."""
    return lambda wildcards, attempt: amount * attempt


@cache
def code(adaptor, *also):
    """Digest of the code that a rule runs."""
    return code_digest(SCRIPTS / adaptor, also)


def digest(*facts):
    """SHA-256 of plain values."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

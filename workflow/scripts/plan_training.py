from pathlib import Path

from unetflow.progress import log_to
from unetflow.settings.experiment import ExperimentSettings
from unetflow.training_plan import write_plan

with log_to(snakemake.log[0]):
    write_plan(
        Path(snakemake.input.images),
        Path(snakemake.input.index),
        Path(snakemake.output.plan),
        ExperimentSettings(**snakemake.params.settings),
        snakemake.params.key,
    )

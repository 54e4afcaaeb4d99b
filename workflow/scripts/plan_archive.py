from pathlib import Path

from unetflow.planning import plan_archive
from unetflow.progress import log_to
from unetflow.settings.experiment import ExperimentSettings

with log_to(snakemake.log[0]):
    plan_archive(
        snakemake.params.volumes,
        {name: ExperimentSettings(**it) for name, it in snakemake.params.experiments.items()},
        output=Path(snakemake.output.plan),
        key=snakemake.params.key,
        models=dict(zip(snakemake.params.models, map(Path, snakemake.input.models), strict=True)),
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.provenance import recorded
from unetflow.settings.experiment import ExperimentSettings
from unetflow.training import task_of, train

with log_to(snakemake.log[0]), recorded(Path(snakemake.output.run)) as facts:
    settings = ExperimentSettings(**snakemake.params.settings)
    facts |= train(
        task_of(snakemake.wildcards.split, **snakemake.input, start=settings.train.start_from),
        settings,
        output=Path(snakemake.output.facts).parent,
        checkpoints=Path(snakemake.params.checkpoints),
    )

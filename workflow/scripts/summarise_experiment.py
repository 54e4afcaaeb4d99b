from pathlib import Path

from unetflow.progress import log_to
from unetflow.summaries import merge_curves, merge_metrics

with log_to(snakemake.log[0]):
    merge_metrics(
        [Path(path) for path in snakemake.input.metrics],
        [Path(path) for path in snakemake.input.facts],
        metrics=Path(snakemake.output.metrics),
        summary=Path(snakemake.output.summary),
    )
    merge_curves([Path(path) for path in snakemake.input.curves], Path(snakemake.output.curves))

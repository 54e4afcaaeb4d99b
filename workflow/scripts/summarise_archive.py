from pathlib import Path

from unetflow.progress import log_to
from unetflow.summaries import summarise_archive

with log_to(snakemake.log[0]):
    summarise_archive(
        dict(zip(snakemake.params.volumes, map(Path, snakemake.input.summaries), strict=True)),
        dict(zip(snakemake.params.with_truth, map(Path, snakemake.input.metrics), strict=True)),
        output=Path(snakemake.output.summary),
    )

from pathlib import Path

from unetflow.archive_summary import summarise_archive
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    summarise_archive(
        Path(snakemake.params.folder),
        volumes=snakemake.params.volumes,
        with_truth=snakemake.params.with_truth,
        output=Path(snakemake.output.summary),
    )

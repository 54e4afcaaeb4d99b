from pathlib import Path

from unetflow.datasets.fetch import fetch
from unetflow.progress import log_to
from unetflow.settings.datasets import Download

with log_to(snakemake.log[0]):
    fetch(
        [Download(**download) for download in snakemake.params.downloads],
        archive=Path(snakemake.output.archive),
        record=Path(snakemake.params.record),
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.report.view import view

with log_to(snakemake.log[0]):
    view(
        Path(snakemake.params.results),
        archives=snakemake.params.archives,
        wanted=snakemake.params.wanted,
        port=snakemake.params.port,
    )

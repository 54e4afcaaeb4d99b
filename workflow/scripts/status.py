from pathlib import Path

from unetflow.progress import log_to
from unetflow.report.status import show

with log_to(snakemake.log[0]):
    show(
        Path(snakemake.params.results),
        experiments=snakemake.params.shown["experiments"],
        archives=snakemake.params.archives,
    )

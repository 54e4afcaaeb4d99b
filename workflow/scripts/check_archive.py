from pathlib import Path

from unetflow.progress import log_to
from unetflow.summaries import check_archive

with log_to(snakemake.log[0]):
    check_archive(Path(snakemake.input.summary))

from pathlib import Path

from unetflow.archive_summary import check_archive
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    check_archive(Path(snakemake.input.summary))

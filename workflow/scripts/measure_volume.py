from pathlib import Path

from unetflow.progress import log_to
from unetflow.volume_intensity import write_volume_histograms

with log_to(snakemake.log[0]):
    row = snakemake.params.row
    write_volume_histograms(row["path"], Path(snakemake.output.histogram), row["choice"])

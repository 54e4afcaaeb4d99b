from pathlib import Path

from unetflow.progress import log_to
from unetflow.volume_intensity import write_volume_histograms

with log_to(snakemake.log[0]):
    write_volume_histograms(snakemake.params.row, Path(snakemake.output.histogram))

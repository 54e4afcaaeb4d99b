from pathlib import Path

from unetflow.intensity import write_volume_histograms
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    write_volume_histograms(
        snakemake.params.image,
        output=Path(snakemake.output.histogram),
        choice=snakemake.params.choice,
    )

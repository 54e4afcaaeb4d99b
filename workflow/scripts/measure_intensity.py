from pathlib import Path

from unetflow.intensity import write_histograms
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    write_histograms(
        snakemake.params.image,
        output=Path(snakemake.output.histogram),
    )

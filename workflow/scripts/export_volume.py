from pathlib import Path

from unetflow.ome_tiff import write_ome_tiff
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    write_ome_tiff(Path(snakemake.params.picture), Path(snakemake.output.file))

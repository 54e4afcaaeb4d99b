from pathlib import Path

from unetflow.ome_tiff import write_ome_tiffs
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    pictures = Path(snakemake.params.pictures)
    write_ome_tiffs(
        [pictures / image for image in snakemake.params.images], Path(snakemake.output.folder)
    )

from pathlib import Path

from unetflow.nifti import write_niftis
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    predictions = Path(snakemake.input.prediction)
    write_niftis(
        [predictions / image for image in snakemake.params.test],
        images=Path(snakemake.input.images),
        folder=Path(snakemake.output.folder),
    )

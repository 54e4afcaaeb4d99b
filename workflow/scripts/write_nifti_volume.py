from pathlib import Path

from unetflow.nifti import write_nifti_of_volume
from unetflow.progress import log_to
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    write_nifti_of_volume(
        read_json(Path(snakemake.params.facts)),
        prediction=Path(snakemake.params.prediction),
        output=Path(snakemake.output.file),
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.submission import write_isbi2012

with log_to(snakemake.log[0]):
    folder = Path(snakemake.input.prediction)
    write_isbi2012(
        [folder / image for image in snakemake.params.test], Path(snakemake.output.stack)
    )

from pathlib import Path

from unetflow.assembly import drop_prediction
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    drop_prediction(
        Path(snakemake.params.prediction),
        output=Path(snakemake.output.dropped),
    )

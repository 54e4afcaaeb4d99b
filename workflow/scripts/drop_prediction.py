from pathlib import Path

from unetflow.assembly import drop_predictions
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    drop_predictions(
        [Path(path) for path in snakemake.params.predictions],
        output=Path(snakemake.output.dropped),
    )

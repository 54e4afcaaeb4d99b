from pathlib import Path

from unetflow.packages import adopt
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    adopt(
        snakemake.params.model,
        facts=Path(snakemake.output.facts),
        weights=Path(snakemake.output.weights),
    )

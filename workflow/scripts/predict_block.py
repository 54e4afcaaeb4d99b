from pathlib import Path

from unetflow.prediction import predict_block
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    predict_block(
        model=Path(snakemake.input.facts[0]).parent,
        volume=snakemake.params.volume,
        prediction=Path(snakemake.params.prediction),
        receipt=Path(snakemake.output.receipt),
        job=snakemake.params.settings,
    )

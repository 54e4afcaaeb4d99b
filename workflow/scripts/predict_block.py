from pathlib import Path

from unetflow.blocks import predict_block
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    predict_block(
        model=Path(snakemake.input.facts).parent,
        volume=snakemake.params.volume,
        prediction=Path(snakemake.params.prediction),
        receipt=Path(snakemake.output.receipt),
        block=snakemake.params.settings,
        code=snakemake.params.code,
        repaired=snakemake.params.repaired,
        needs=(snakemake.resources.need_mb, snakemake.resources.disk_mb),
        attempt=snakemake.resources.attempt,
        histograms=Path(snakemake.input.histograms) if snakemake.input.histograms else None,
    )

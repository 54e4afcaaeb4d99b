from pathlib import Path

from unetflow.blocks import predict_pack
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    predict_pack(
        model=Path(snakemake.input.facts).parent,
        folder=Path(snakemake.params.folder),
        members=snakemake.params.settings,
        output=Path(snakemake.output.pack),
        code=snakemake.params.code,
        needs=(snakemake.resources.need_mb, snakemake.resources.disk_mb),
        attempt=snakemake.resources.attempt,
        restored=snakemake.params.restored,
    )

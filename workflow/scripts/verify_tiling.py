from pathlib import Path

from unetflow.exactness import verify_tiling
from unetflow.inference import load
from unetflow.progress import log_to
from unetflow.settings import PredictSettings

with log_to(snakemake.log[0]):
    settings = PredictSettings(**snakemake.params.settings)
    verify_tiling(
        load(Path(snakemake.input.facts).parent, settings.device, settings.precision),
        Path(snakemake.input.images) / snakemake.params.image,
        tile=snakemake.params.tile,
        threads=settings.threads,
        output=Path(snakemake.output.facts),
    )

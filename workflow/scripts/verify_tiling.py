from pathlib import Path

from unetflow.exactness import verify_tiling
from unetflow.progress import log_to
from unetflow.regions import load_for
from unetflow.settings import PredictSettings

with log_to(snakemake.log[0]):
    settings = PredictSettings(**snakemake.params.settings)
    verify_tiling(
        load_for(settings, Path(snakemake.input.facts).parent),
        Path(snakemake.input.images) / snakemake.params.image,
        tile=snakemake.params.tile,
        settings=settings,
        output=Path(snakemake.output.facts),
    )

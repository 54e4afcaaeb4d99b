from pathlib import Path

from unetflow.exactness import verify_tiling
from unetflow.progress import log_to
from unetflow.provenance import recorded
from unetflow.regions import load_for
from unetflow.settings.prediction import PredictSettings

with log_to(snakemake.log[0]), recorded(Path(snakemake.output.run)) as facts:
    settings = PredictSettings(**snakemake.params.settings)
    facts |= verify_tiling(
        load_for(settings, Path(snakemake.input.facts).parent),
        Path(snakemake.input.images) / snakemake.params.image,
        tile=snakemake.params.tile,
        settings=settings,
        output=Path(snakemake.output.facts),
    )

from pathlib import Path

from unetflow.prediction import predict_images
from unetflow.progress import log_to
from unetflow.provenance import recorded
from unetflow.regions import load_for
from unetflow.settings.prediction import PredictSettings

settings = PredictSettings(**snakemake.params.settings)
with log_to(snakemake.log[0]), recorded(Path(snakemake.output.run)) as facts:
    facts |= predict_images(
        load_for(settings, Path(snakemake.input.facts).parent),
        images=[Path(snakemake.input.images) / image for image in snakemake.params.test],
        output=Path(snakemake.output.prediction),
        settings=settings,
    )

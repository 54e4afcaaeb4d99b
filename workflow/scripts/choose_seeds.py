from pathlib import Path

from unetflow.progress import log_to
from unetflow.regions import load_for
from unetflow.seeds import choose_seeds
from unetflow.settings.prediction import PredictSettings, SegmentSettings

predict = PredictSettings(**snakemake.params.predict)
with log_to(snakemake.log[0]):
    choose_seeds(
        load_for(predict, Path(snakemake.input.facts).parent),
        images=[Path(snakemake.input.images) / image for image in snakemake.params.validation],
        output=Path(snakemake.output.seeds),
        predict=predict,
        segment=SegmentSettings(**snakemake.params.segment),
        **snakemake.params.planes,
    )

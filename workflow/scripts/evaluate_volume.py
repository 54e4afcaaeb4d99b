from pathlib import Path

from unetflow.evaluation import evaluate_volume
from unetflow.progress import log_to
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    segmentation = snakemake.input.segmentation  # none of values
    evaluate_volume(
        read_json(Path(snakemake.input.predicted)),
        paths={
            "truth": snakemake.params.truth,
            "prediction": Path(snakemake.params.prediction),
            "segmentation": Path(segmentation) if segmentation else "",
        },
        output=Path(snakemake.output.metrics),
        model=read_json(Path(snakemake.input.facts)),
        settings=EvaluateSettings(**snakemake.params.settings),
    )

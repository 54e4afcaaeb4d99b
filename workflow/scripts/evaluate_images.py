from pathlib import Path

from unetflow.evaluation import evaluate_images
from unetflow.progress import log_to
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import read_json
from unetflow.track_scores import score_tracks

with log_to(snakemake.log[0]):
    lineages = read_json(Path(snakemake.input.index))["lineages"]
    known = Path(snakemake.input.images), Path(*snakemake.input.tracks), lineages
    folders = (snakemake.input.images, snakemake.input.prediction, *snakemake.input.segmentation)
    evaluate_images(
        {image: [Path(folder) / image for folder in folders] for image in snakemake.params.test},
        {name: snakemake.wildcards[name] for name in ("experiment", "split", "seed")},
        *(Path(snakemake.output.metrics), Path(snakemake.output.curves)),
        model=read_json(Path(snakemake.input.facts)),
        settings=EvaluateSettings(**snakemake.params.settings),
        tracked=score_tracks(snakemake.params.sequences, *known),
        tested_planes=snakemake.params.tested_planes,
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.segmentation import segment_part
from unetflow.settings.prediction import SegmentSettings
from unetflow.stitching import model_with_seeds
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    segment_part(
        read_json(Path(snakemake.input.predicted)),
        prediction=Path(snakemake.params.prediction),
        output=Path(snakemake.output.blocks),
        part=(int(snakemake.wildcards.part), int(snakemake.wildcards.parts)),
        model=model_with_seeds(Path(snakemake.input.facts), snakemake.input.seeds),
        settings=SegmentSettings(**snakemake.params.settings),
    )

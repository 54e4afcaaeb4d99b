from pathlib import Path

from unetflow.progress import log_to
from unetflow.segmentation import segment_part
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    segment_part(
        read_json(Path(snakemake.input.predicted)),
        prediction=Path(snakemake.params.prediction),
        output=Path(snakemake.output.blocks),
        part=(int(snakemake.wildcards.part), int(snakemake.wildcards.parts)),
        model=read_json(Path(snakemake.input.facts)),
        settings=SegmentSettings(**snakemake.params.settings),
    )

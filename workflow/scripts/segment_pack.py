from pathlib import Path

from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.segmentation import segment_pack
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    job, params = snakemake, snakemake.params
    segment_pack(
        Pack(job.input.finished, job.output.segmented, params.paths, params.code, params.restored),
        volumes=params.volumes,
        model=read_json(Path(job.input.facts)),
        settings=SegmentSettings(**params.settings),
    )

from pathlib import Path

from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.segmentation import segment_pack
from unetflow.settings.prediction import SegmentSettings
from unetflow.stitching import model_with_seeds

with log_to(snakemake.log[0]):
    job, params = snakemake, snakemake.params
    segment_pack(
        Pack(job.input.finished, job.output.segmented, params.paths, params.code, params.restored),
        volumes=params.volumes,
        model=model_with_seeds(Path(job.input.facts), job.input.seeds),
        settings=SegmentSettings(**params.settings),
    )

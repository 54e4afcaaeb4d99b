from pathlib import Path

from unetflow.progress import log_to
from unetflow.segmentation import segment_images
from unetflow.settings.prediction import SegmentSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    segment_images(
        [Path(snakemake.input.prediction) / image for image in snakemake.params.test],
        images=Path(snakemake.input.images),
        outputs={name: Path(path) for name, path in snakemake.output.items()},
        model=read_json(Path(snakemake.input.facts)),
        settings=SegmentSettings(**snakemake.params.settings),
    )

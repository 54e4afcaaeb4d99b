from pathlib import Path

from unetflow.progress import log_to
from unetflow.segmentation import segment_images
from unetflow.settings.prediction import SegmentSettings
from unetflow.stitching import model_with_seeds

with log_to(snakemake.log[0]):
    segment_images(
        [Path(snakemake.input.prediction) / image for image in snakemake.params.test],
        images=Path(snakemake.input.images),
        outputs={name: Path(path) for name, path in snakemake.output.items()},
        model=model_with_seeds(Path(snakemake.input.facts), snakemake.input.seeds),
        settings=SegmentSettings(**snakemake.params.settings),
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.settings.prediction import TrackSettings
from unetflow.tracking import track_images

with log_to(snakemake.log[0]):
    folder = Path(snakemake.input.segmentation)
    track_images(
        {
            name: {frame: folder / image for frame, image in frames.items()}
            for name, frames in snakemake.params.sequences.items()
        },
        output=Path(snakemake.output.tracks),
        settings=TrackSettings(**snakemake.params.settings),
    )

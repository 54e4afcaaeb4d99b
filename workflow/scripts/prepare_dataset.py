from pathlib import Path

from unetflow.datasets.prepare import prepare
from unetflow.progress import log_to
from unetflow.settings.datasets import DatasetSettings

with log_to(snakemake.log[0]):
    prepare(
        DatasetSettings(**snakemake.params.settings),
        root=Path(snakemake.params.root),
        images=Path(snakemake.output.images),
        index=Path(snakemake.output.index),
        key=snakemake.params.key,
    )

from pathlib import Path

from unetflow.progress import log_to
from unetflow.settings.training import WeightsSettings
from unetflow.store import read_json
from unetflow.weights import counts_in, write_weights

with log_to(snakemake.log[0]):
    settings = WeightsSettings(**snakemake.params.settings)
    index, images = read_json(Path(snakemake.input.index)), Path(snakemake.input.images)
    tested_planes = snakemake.params.tested_planes
    write_weights(
        images / snakemake.wildcards.image,
        output=Path(snakemake.output.weights),
        class_counts=counts_in(index, images, settings, tested_planes),
        dimensions=snakemake.params.dimensions,
        settings=settings,
        threads=snakemake.threads,
        tested_planes=tested_planes,
    )

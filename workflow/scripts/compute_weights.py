from pathlib import Path

from unetflow.progress import log_to
from unetflow.settings import WeightsSettings
from unetflow.store import read_json
from unetflow.weights import write_weights

with log_to(snakemake.log[0]):
    write_weights(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        output=Path(snakemake.output.weights),
        class_counts=read_json(Path(snakemake.input.index))["class_counts"],
        settings=WeightsSettings(**snakemake.params.settings),
        threads=snakemake.threads,
    )

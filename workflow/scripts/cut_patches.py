from pathlib import Path

from unetflow.geometry import geometry_from_json
from unetflow.patches import cut_patches, open_source
from unetflow.progress import log_to
from unetflow.settings.training import PatchesSettings, WeightsSettings
from unetflow.store import read_json
from unetflow.weights import counts_in

with log_to(snakemake.log[0]):
    weights = WeightsSettings(**snakemake.params.weights)
    source = open_source(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        Path(*snakemake.input.weights),
        geometry_from_json(snakemake.params.geometry),
        class_counts=counts_in(read_json(Path(snakemake.input.index)), weights),
        weight_settings=weights,
    )
    settings = PatchesSettings(**snakemake.params.settings)
    cut_patches(source, Path(snakemake.output.patches), settings)

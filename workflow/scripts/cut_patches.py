from pathlib import Path

from unetflow.geometry import geometry_from_json
from unetflow.patches import cut_patches, open_source
from unetflow.progress import log_to
from unetflow.settings.training import PatchesSettings, WeightsSettings

with log_to(snakemake.log[0]):
    source = open_source(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        Path(*snakemake.input.weights),
        geometry_from_json(snakemake.params.geometry),
        weight_settings=WeightsSettings(**snakemake.params.weights),
    )
    settings = PatchesSettings(**snakemake.params.settings)
    cut_patches(source, Path(snakemake.output.patches), settings)

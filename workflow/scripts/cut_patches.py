from pathlib import Path

from unetflow.geometry import geometry_from_json
from unetflow.patches import cut_patches
from unetflow.progress import log_to
from unetflow.settings import PatchesSettings

with log_to(snakemake.log[0]):
    cut_patches(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        weights_path=Path(snakemake.input.weights[0]),
        output=Path(snakemake.output.patches),
        geometry=geometry_from_json(snakemake.params.geometry),
        settings=PatchesSettings(**snakemake.params.settings),
    )

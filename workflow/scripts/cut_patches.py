from pathlib import Path

from unetflow.geometry import geometry_from_json
from unetflow.patches import cut_patches
from unetflow.progress import log_to
from unetflow.settings import PatchesSettings, WeightsSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    cut_patches(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        weights_path=Path(snakemake.input.weights[0]),
        output=Path(snakemake.output.patches),
        table=Path(snakemake.output.table),
        geometry=geometry_from_json(snakemake.params.geometry),
        settings=PatchesSettings(**snakemake.params.settings),
        class_counts=read_json(Path(snakemake.input.index))["class_counts"],
        weight_settings=WeightsSettings(**snakemake.params.weights),
    )

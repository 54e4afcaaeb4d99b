from pathlib import Path

from unetflow.progress import log_to
from unetflow.report.contact_sheet import draw_sheet
from unetflow.settings.training import PatchesSettings

with log_to(snakemake.log[0]):
    draw_sheet(
        Path(snakemake.input.images) / snakemake.wildcards.image,
        patches=Path(snakemake.input.patches),
        output=Path(snakemake.output.sheet),
        settings=PatchesSettings(**snakemake.params.settings),
    )

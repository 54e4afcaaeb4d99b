from pathlib import Path

from unetflow.export import export
from unetflow.model_card import Subject
from unetflow.progress import log_to
from unetflow.settings.evaluation import ExportSettings

with log_to(snakemake.log[0]):
    export(
        Path(snakemake.input.facts).parent,
        image=Path(snakemake.input.images) / snakemake.params.image,
        summary=Path(snakemake.input.summary),
        outputs={name: Path(path) for name, path in snakemake.output.items()},
        subject=Subject(**snakemake.params.subject),
        settings=ExportSettings(**snakemake.params.settings),
    )

from pathlib import Path

from unetflow.measured_values import measure_values
from unetflow.progress import log_to
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    measure_values(
        snakemake.params.volumes,
        paths=snakemake.params.paths,
        output=Path(snakemake.output.measured),
        model=read_json(Path(snakemake.input.facts)),
        restored=snakemake.params.restored,
    )

from pathlib import Path

from unetflow.measured_values import measure_values
from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    job, params = snakemake, snakemake.params
    measure_values(
        Pack(None, job.output.measured, params.paths, params.code, params.restored),
        volumes=params.volumes,
        model=read_json(Path(job.input.facts)),
    )

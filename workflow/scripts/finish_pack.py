from pathlib import Path

from unetflow.assembly import finish_pack
from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.settings.prediction import PredictSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    job, params = snakemake, snakemake.params
    finish_pack(
        Pack(job.input.pack, job.output.finished, params.paths, params.code, params.restored),
        rows=params.rows,
        model=read_json(Path(job.input.facts)),
        settings=PredictSettings(**params.settings),
    )

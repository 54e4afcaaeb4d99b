from pathlib import Path

from unetflow.evaluation import evaluate_pack
from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.settings.evaluation import EvaluateSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    job, params = snakemake, snakemake.params
    evaluate_pack(
        Pack(job.input.ready, job.output.scored, params.paths, params.code, params.restored),
        truths=params.truths,
        model=read_json(Path(job.input.facts)),
        settings=EvaluateSettings(**params.settings),
    )

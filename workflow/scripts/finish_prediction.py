from pathlib import Path

from unetflow.assembly import finish_prediction
from unetflow.progress import log_to
from unetflow.settings.prediction import PredictSettings
from unetflow.store import read_json

with log_to(snakemake.log[0]):
    finish_prediction(
        snakemake.params.row,
        receipts=[Path(path) for path in snakemake.params.receipts],
        model=read_json(Path(snakemake.input.facts)),
        settings=PredictSettings(**snakemake.params.settings),
        prediction=Path(snakemake.params.prediction),
        output=Path(snakemake.output.facts),
    )

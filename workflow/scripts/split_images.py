from pathlib import Path

from unetflow.progress import log_to
from unetflow.settings.training import SplitSettings
from unetflow.splits import split
from unetflow.store import read_json, write_json

with log_to(snakemake.log[0]):
    images = read_json(Path(snakemake.input.index))["images"]
    parts = split(images, SplitSettings(**snakemake.params.settings))
    write_json(Path(snakemake.output.split), parts)

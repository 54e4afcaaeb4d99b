from pathlib import Path

from unetflow.planning import described
from unetflow.progress import log_to

with log_to(snakemake.log[0]):
    for plan in snakemake.input:
        print(f"\n{Path(plan).parent.name}\n{described(Path(plan))}\n")

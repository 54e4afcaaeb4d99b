from pathlib import Path

from unetflow.progress import log_to
from unetflow.report.crate import write_crate

with log_to(snakemake.log[0]):
    write_crate(
        Path(snakemake.params.results),
        experiments=snakemake.params.shown["experiments"],
        datasets=snakemake.params.shown["datasets"],
        archives=snakemake.params.archives,
        code=[Path(path) for path in snakemake.params.copied],
        outputs={name: Path(path) for name, path in snakemake.output.items()},
    )

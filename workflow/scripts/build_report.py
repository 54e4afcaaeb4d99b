from pathlib import Path

from unetflow.progress import log_to
from unetflow.report.page import build

with log_to(snakemake.log[0]):
    build(
        Path(snakemake.params.results),
        **snakemake.params.shown,
        archives=list(snakemake.params.archives),
        template=Path(snakemake.scriptdir).parent / "report/index.html.j2",
        page=Path(snakemake.params.page),
    )

from unetflow.packs import Pack
from unetflow.progress import log_to
from unetflow.volume_intensity import measure_pack

with log_to(snakemake.log[0]):
    output, params = snakemake.output, snakemake.params
    measure_pack(
        Pack(None, output.counted, params.paths, params.code, params.restored),
        rows=params.rows,
    )

"""Put the parts of a sweep together."""

import pandas as pd
import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.files import read_frame, write_frame


def gather_sweep(parts: list[str], output: str, dataset: str, run: int) -> str:
    frames = [read_frame(path, pq.read_schema(path).names) for path in parts]
    whole = pd.concat(frames, ignore_index=True).sort_values(
        ["setting", "seed", "rule"], kind="stable", ignore_index=True
    )
    write_frame(output, whole.assign(dataset=dataset, run=run))
    return f"{whole['setting'].nunique()} settings gathered"


job.start(snakemake.log[0])
gathered = gather_sweep(
    snakemake.input.parts, snakemake.output[0], snakemake.wildcards.dataset, int(snakemake.wildcards.run)
)
job.finish("Sweep", gathered)

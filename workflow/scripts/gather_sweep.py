"""Put the parts of a sweep together."""

import pandas as pd
import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.files import read_frame, write_frame

job.start(snakemake.log[0])
frames = [read_frame(path, pq.read_schema(path).names) for path in snakemake.input.parts]
whole = pd.concat(frames, ignore_index=True).sort_values(["setting", "seed", "rule"], kind="stable", ignore_index=True)
of = {"dataset": snakemake.wildcards.dataset, "run": int(snakemake.wildcards.run)}
write_frame(snakemake.output[0], whole.assign(**of))
job.finish("Sweep", f"{whole['setting'].nunique()} settings gathered")

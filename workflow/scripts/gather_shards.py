"""Join the files of shards, a row group at a time."""

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.shards import join

job.start(snakemake.log[0])
join(snakemake.output[0], snakemake.input.shards)
rows = pq.read_metadata(snakemake.output[0]).num_rows
job.finish("Shards", f"{len(snakemake.input.shards)} joined, {rows:,} rows")

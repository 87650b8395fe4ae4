"""Join the embeddings of shards, and bring them to one spread where it is asked for."""

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.data.table import SPLITS
from hsfm.features.embeddings import EmbeddingSettings
from hsfm.features.splits import read_shards, write_splits

job.start(snakemake.log[0])
write_splits(
    dict(snakemake.output.items()),
    lambda split: read_shards(snakemake.input[split], split),
    EmbeddingSettings(**snakemake.params.settings).standardize,
)
rows = {split: pq.read_metadata(snakemake.output[split]).num_rows for split in SPLITS}
job.finish("Embeddings", f"{by_split(rows)} gathered")

"""Join the embeddings of shards, a piece at a time, and bring them to one spread where it is asked for."""

from hsfm import job
from hsfm.images import SPLITS
from hsfm.splits import read_shards, write_splits

job.start(snakemake.log[0])
write_splits(
    dict(snakemake.output.items()),
    {split: read_shards(snakemake.input[split], split) for split in SPLITS}.__getitem__,
    snakemake.params.settings["standardise"],
)

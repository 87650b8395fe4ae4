"""Fit ERM's head where no network was trained: on frozen features, or on embeddings that were given."""

from hsfm.core import job
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.erm_head import ERMHeadSettings, erm_row
from hsfm.heads.head import write_heads

job.start(snakemake.log[0])
train = read_embeddings(snakemake.input.train, split="train")
saved = erm_row(train, ERMHeadSettings(**snakemake.params.settings), int(snakemake.wildcards.run))
write_heads(snakemake.output.heads, saved)
job.finish("ERM", f"head fitted on {len(train.y):,} images")

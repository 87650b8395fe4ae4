"""Gather the heads that one job per seed has fitted."""

from hsfm import job
from hsfm.head import gather, read_heads, write_heads

job.start(snakemake.log[0])
write_heads(snakemake.output.heads, gather([read_heads(path) for path in snakemake.input.heads]))

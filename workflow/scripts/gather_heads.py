"""Gather the heads that one job per seed has fitted."""

from hsfm.core import job
from hsfm.heads.head import gather, read_heads, write_heads
from hsfm.report.names import method_label

job.start(snakemake.log[0])
saved = gather([read_heads(path) for path in snakemake.input.heads])
write_heads(snakemake.output.heads, saved)
job.finish(method_label(saved.method), f"heads of {len(saved.seeds)} seeds gathered")

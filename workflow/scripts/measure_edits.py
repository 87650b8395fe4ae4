"""Measure what HSFM's edits mean."""

from hsfm.analysis.edits import EditSettings, measure, write_edits
from hsfm.core import job
from hsfm.core.text import percent
from hsfm.features.embeddings import read_embeddings
from hsfm.methods.hsfm.support import read_support

job.start(snakemake.log[0])
train, val = (read_embeddings(snakemake.input[split], split=split) for split in ("train", "val"))
settings = EditSettings(**snakemake.params.edits)
edits, metadata = measure(read_support(snakemake.input.support), train, val, settings=settings)
edits = edits.assign(dataset=train.dataset, run=int(snakemake.wildcards.run))
write_edits(snakemake.output.edits, edits, {**metadata, "checkpoint_sha256": train.checkpoint_sha256})
flips = edits["attribute_flips"].dropna()
flipped = f", {percent([flips.astype(float).mean()])} % come to lie nearest to another attribute" if len(flips) else ""
job.finish("Edits", f"{len(edits):,} measured{flipped}")

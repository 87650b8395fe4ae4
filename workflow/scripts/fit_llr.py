"""Fit LLR's heads, all seeds."""

from hsfm.core import job
from hsfm.core.text import strengths
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import SavedHeads, write_heads
from hsfm.methods.dfr import fit_llr

job.start(snakemake.log[0])
val = read_embeddings(snakemake.input.val, split="val")
chosen = []
head = fit_llr(val, seeds=snakemake.params.seeds, **snakemake.params.settings, chosen=chosen)
write_heads(
    snakemake.output.heads,
    SavedHeads(
        head=head,
        method="llr",
        seeds=tuple(snakemake.params.seeds),
        class_names=val.class_names,
        checkpoint_sha256=val.checkpoint_sha256,
        group_labels="none",
        chosen_by="C by the worst class of one half of validation",
        settings=snakemake.params.settings,
    ),
)
job.finish("LLR", strengths(chosen))

"""Fit LLR's heads, all seeds."""

from hsfm import job
from hsfm.baselines.dfr import fit_llr
from hsfm.embeddings import read_embeddings
from hsfm.head import SavedHeads, write_heads

job.start(snakemake.log[0])
val = read_embeddings(snakemake.input.val, split="val")
head = fit_llr(val, seeds=snakemake.params.seeds, **snakemake.params.settings)
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

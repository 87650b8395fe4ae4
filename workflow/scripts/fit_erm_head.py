"""Fit ERM's head where no network was trained: on frozen features, or on embeddings that were given."""

from hsfm.core import job
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.erm_head import ERMHeadSettings, fit_head
from hsfm.heads.head import SavedHeads, write_heads

job.start(snakemake.log[0])
train = read_embeddings(snakemake.input.train, split="train")
settings = snakemake.params.settings
saved = SavedHeads(
    head=fit_head(train, ERMHeadSettings(**settings)),
    method="erm",
    seeds=(int(snakemake.wildcards.run),),
    class_names=train.class_names,
    checkpoint_sha256=train.checkpoint_sha256,
    group_labels="none",
    chosen_by="logistic regression on frozen features, nothing chosen",
    settings=settings,
)
write_heads(snakemake.output.heads, saved)
job.finish("ERM", f"head fitted on {len(train.y):,} images")

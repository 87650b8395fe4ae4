"""Choose the hard samples of the pool under ERM's head."""

from hsfm.core import job
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.hard_set import build, write_hard_set
from hsfm.heads.head import read_heads


def build_hard_set(heads: str, pool: str, hard_set: str, per_class: int) -> str:
    embeddings = read_embeddings(pool, split="val")
    saved = read_heads(heads)
    saved.check_fits(embeddings, pool)
    built = build(saved.head[0], embeddings, per_class=per_class)
    write_hard_set(hard_set, built, embeddings)
    wrong = int((saved.head[0].predict(embeddings.features) != embeddings.y)[built.chosen].sum())
    n = int(built.chosen.sum())
    return f"{n:,} of {len(built.y):,} validation images, {wrong:,} of them wrong under ERM"


job.start(snakemake.log[0])
chosen = build_hard_set(
    snakemake.input.heads,
    snakemake.input.pool,
    snakemake.output.hard_set,
    snakemake.params.settings["hard_per_class"],
)
job.finish("Hard set", chosen)

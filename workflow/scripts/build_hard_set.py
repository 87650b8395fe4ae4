"""Choose the hard samples of the pool under ERM's head."""

from hsfm.core import job
from hsfm.heads.hard_set import build, write_hard_set
from hsfm.heads.head import read_erm_features

job.start(snakemake.log[0])
erm, (pool,) = read_erm_features(snakemake.input.heads, val=snakemake.input.pool)
hard_set = build(erm.head[0], pool, per_class=snakemake.params.settings["hard_per_class"])
write_hard_set(snakemake.output.hard_set, hard_set, pool)
wrong = (erm.head[0].predict(pool.features) != pool.y)[hard_set.chosen]
job.finish(
    "Hard set", f"{len(wrong):,} of {len(pool.y):,} validation images, {int(wrong.sum()):,} of them wrong under ERM"
)

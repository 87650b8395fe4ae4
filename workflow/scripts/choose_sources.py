"""Choose the training images whose objects DDB replaces: those that ERM finds easiest."""

import pyarrow as pa

from hsfm.core import job
from hsfm.core.files import write_parquet
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.ddb.fit import choose_sources
from hsfm.methods.ddb.generated import SOURCES

job.start(snakemake.log[0])
train = read_embeddings(snakemake.input.train, split="train")
erm = read_heads(snakemake.input.heads)
erm.check_fits(train, snakemake.input.train)
settings = snakemake.params.ddb
if settings["classes"] != train.n_classes:
    raise ValueError(
        f"ddb/retrain/weights: {settings['classes']} numbers, but {train.dataset} has {train.n_classes} classes "
        f"({', '.join(train.class_names)}); give one for each"
    )
if settings["select_by"] == "worst_group":
    # said here, for retraining comes last
    read_embeddings(snakemake.input.val, split="val").require_attributes("DDB with select_by: worst_group")
sources = choose_sources(erm.head[0], train, settings["sources_per_class"])
write_parquet(
    snakemake.output.sources,
    pa.Table.from_pandas(sources, SOURCES, preserve_index=False),
    {
        "dataset": train.dataset,
        "run": int(snakemake.wildcards.run),
        "classes": train.class_names,
        "checkpoint_sha256": train.checkpoint_sha256,
    },
)
job.finish("DDB", f"{len(sources):,} source images chosen")

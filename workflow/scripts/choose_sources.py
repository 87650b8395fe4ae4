"""Choose the training images whose objects DDB replaces: those that ERM finds easiest."""

import pyarrow as pa

from hsfm.core import job
from hsfm.core.files import write_parquet
from hsfm.heads.head import read_erm_features
from hsfm.methods.ddb.generated import SOURCES, choose_sources

job.start(snakemake.log[0])
files, settings = snakemake.input, snakemake.params.ddb
erm, (train,) = read_erm_features(files.heads, train=files.train)
sources = choose_sources(erm.head[0], train, settings["sources_per_class"])
metadata = {
    "dataset": train.dataset,
    "run": int(snakemake.wildcards.run),
    "classes": train.class_names,
    "checkpoint_sha256": train.checkpoint_sha256,
}
write_parquet(snakemake.output.sources, pa.Table.from_pandas(sources, SOURCES, preserve_index=False), metadata)
job.finish("DDB", f"{len(sources):,} source images chosen")

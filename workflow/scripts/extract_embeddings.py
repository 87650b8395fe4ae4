"""Embed the images of one dataset with a trained backbone: all of them, or one shard's."""

from functools import partial

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import sha256
from hsfm.core.shards import WHOLE, Shard
from hsfm.core.text import by_split
from hsfm.data.open_images import open_source
from hsfm.data.table import SPLITS, read_images
from hsfm.data.transforms import TransformSettings
from hsfm.features.embeddings import EmbeddingSettings, write_embeddings
from hsfm.features.extract import embed_table, feature_function
from hsfm.features.splits import write_splits
from hsfm.models.backbone import read_checkpoint

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params = snakemake.input, snakemake.output, snakemake.params
table, trained = read_images(files.images), read_checkpoint(files.checkpoint)
compute, settings = Compute.on(params.device, **params.compute), EmbeddingSettings(**params.settings)
shard = Shard.named(snakemake.wildcards.get("scatteritem"))
precision = str(compute.dtype).removeprefix("torch.")
details = {"backbone": trained.name, "transform": params.transform, "precision": precision}
embed = partial(
    embed_table,
    feature_function(trained.network, TransformSettings(**params.transform), compute),
    table,
    open_source(files.images, files.cache),
    batch_size=settings.batch_size,
    compute=compute,
    metadata={"checkpoint_sha256": sha256(files.checkpoint), "details": details, "min_group": settings.min_group},
    early_logits=trained.early_logits,
    shard=shard,
)
if shard == WHOLE:
    write_splits(outputs, lambda split: embed(split=split), settings.standardize)
else:
    for split in SPLITS:
        write_embeddings(outputs[split], embed(split=split), whole=False)
job.finish("Embeddings", by_split({split: pq.read_metadata(outputs[split]).num_rows for split in SPLITS}))

"""Embed the images of one dataset with a trained backbone: all of them, or one shard's."""

import json
import time
from collections.abc import Iterator

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.device import Compute, choose_device
from hsfm.core.files import sha256
from hsfm.core.shards import WHOLE, Shard
from hsfm.core.text import by_split
from hsfm.data.open_images import open_source
from hsfm.data.store import CacheFiles
from hsfm.data.table import SPLITS, read_names, read_pieces
from hsfm.features.embeddings import Embeddings, write_pieces
from hsfm.features.extract import embed_table
from hsfm.features.splits import write_splits
from hsfm.models.backbone import read_checkpoint


def extract_embeddings(
    images: str,
    cache: CacheFiles | None,
    checkpoint: str,
    outputs: dict[str, str],
    shard: Shard,
    transform: dict,
    settings: dict,
    compute: Compute,
) -> None:
    names = read_names(images)
    trained = read_checkpoint(checkpoint)
    if trained.class_names != names.class_names:
        raise ValueError(f"{checkpoint}: classes {trained.class_names}, but {images} has {names.class_names}")
    if trained.metadata.get("transform") != json.dumps(transform):
        raise ValueError(f"{checkpoint}: was trained with transform {trained.metadata.get('transform')}")
    source = open_source(images, cache)
    digest = sha256(checkpoint)
    precision = str(compute.dtype).removeprefix("torch.")
    details = {"backbone": trained.name, "transform": transform, "precision": precision}

    def embed(split: str) -> Iterator[Embeddings]:
        return embed_table(
            trained.network,
            lambda: read_pieces(images),
            source,
            split=split,
            transform=transform,
            batch_size=settings["batch_size"],
            compute=compute,
            about={"checkpoint_sha256": digest, "details": details},
            shard=shard,
        )

    if shard == WHOLE:
        write_splits(outputs, embed, settings["standardise"])
    else:
        for split in SPLITS:
            write_pieces(outputs[split], embed(split), whole=False)


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
began = time.monotonic()
extract_embeddings(
    snakemake.input.images,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.input.checkpoint,
    dict(snakemake.output.items()),
    Shard.named(snakemake.wildcards.get("shard")),
    snakemake.params.transform,
    snakemake.params.settings,
    Compute(choose_device(snakemake.params.device), **snakemake.params.compute),
)
seconds = time.monotonic() - began
rows = {split: pq.read_metadata(snakemake.output[split]).num_rows for split in SPLITS}
job.finish("Embeddings", f"{by_split(rows)}, {sum(rows.values()) / seconds:,.0f} images/s")

"""Embed every image of one dataset with a trained backbone."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from hsfm import job
from hsfm.backbone import read_checkpoint
from hsfm.device import Compute, choose_device
from hsfm.embed import embed_table
from hsfm.embeddings import Embeddings, read_pieces, write_pieces
from hsfm.files import sha256
from hsfm.images import SPLITS, read_names
from hsfm.images import read_pieces as read_table
from hsfm.pixel_cache import CacheFiles
from hsfm.source import open_source
from hsfm.standardise import Moments, Standardisation, nothing, write_standardisation


def extract_embeddings(
    images: str,
    cache: CacheFiles | None,
    checkpoint: str,
    outputs: dict[str, str],
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
    counts = Counter(split for piece in read_table(images) for split in piece.rows["split"])
    digest = sha256(checkpoint)
    precision = str(compute.dtype).removeprefix("torch.")
    details = {"backbone": trained.name, "transform": transform, "precision": precision}

    def embed(split: str) -> Iterator[Embeddings]:
        return embed_table(
            trained.network,
            read_table(images),
            source,
            split=split,
            transform=transform,
            batch_size=settings["batch_size"],
            compute=compute,
            n=counts[split],
            about={"checkpoint_sha256": digest, "details": details},
        )

    standardisation = write_train(outputs["train"], lambda: embed("train"), settings["standardise"])
    for split in SPLITS:
        if split != "train":
            write_pieces(outputs[split], apply(standardisation, embed(split)))
    write_standardisation(outputs["standardisation"], standardisation, {"checkpoint_sha256": digest})


def write_train(path: str, embed: Callable[[], Iterator[Embeddings]], settings: dict | None) -> Standardisation:
    """Write the training split; its features are those that standardise, so that raw ones lie on disk in between."""
    raw = Path(path).with_name(".raw.parquet")
    raw.unlink(missing_ok=True)  # of a killed run
    if settings is None:
        write_pieces(path, embed())
        return nothing(next(read_pieces(path)).features.shape[1])
    moments = Moments()

    def counted() -> Iterator[Embeddings]:
        for piece in embed():
            moments.add(piece.features)
            yield piece

    write_pieces(raw, counted())
    standardisation = moments.standardisation(**settings)
    write_pieces(path, apply(standardisation, read_pieces(raw)))
    raw.unlink()
    return standardisation


def apply(standardisation: Standardisation, pieces: Iterator[Embeddings]) -> Iterator[Embeddings]:
    return (replace(piece, features=standardisation.apply(piece.features)) for piece in pieces)


job.start(snakemake.log[0])
extract_embeddings(
    snakemake.input.images,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.input.checkpoint,
    dict(snakemake.output.items()),
    snakemake.params.transform,
    snakemake.params.settings,
    Compute(choose_device(snakemake.params.device), **snakemake.params.compute),
)

"""Embed every image of one dataset with a trained backbone."""

import json
from pathlib import Path

import torch

from hsfm import job, standardise
from hsfm.augment import transform
from hsfm.backbone import read_checkpoint
from hsfm.device import choose_device
from hsfm.embeddings import Embeddings, extract, write_embeddings
from hsfm.files import sha256
from hsfm.images import SPLITS, check_pixels, read_images
from hsfm.pixels import open_pixels


def extract_embeddings(
    images: str,
    checkpoint: str,
    outputs: dict[str, str],
    transform_settings: dict,
    settings: dict,
    device: torch.device,
) -> None:
    table = read_images(images)
    check_pixels(table, Path(images).parent)
    trained = read_checkpoint(checkpoint)
    if trained.class_names != table.class_names:
        raise ValueError(f"{checkpoint}: classes {trained.class_names}, but {images} has {table.class_names}")
    if trained.metadata.get("transform") != json.dumps(transform_settings):
        raise ValueError(f"{checkpoint}: was trained with transform {trained.metadata.get('transform')}")
    network = trained.network.to(device).eval()
    digest = sha256(checkpoint)
    standardisation = None
    for split in SPLITS:  # train comes first, and its features are those that standardise
        rows = table.split(split)
        pixels = open_pixels(rows, table.folder or Path(images).parent)
        batches = (pixels.batch(p, device) for p in torch.arange(len(rows)).split(settings["batch_size"]))
        features = extract(lambda batch: network.features(transform(batch, transform_settings)), batches)
        if standardisation is None:
            standardisation = standardise.choose(features, settings["standardise"])
        embeddings = Embeddings(
            features=standardisation.apply(features),
            y=torch.tensor(rows["y"].astype("int64").to_numpy()),
            attribute=torch.tensor(rows["attribute"].fillna(-1).astype("int64").to_numpy()),
            image_id=tuple(rows["image_id"]),
            class_names=table.class_names,
            attribute_names=table.attribute_names,
            dataset=table.dataset,
            split=split,
            checkpoint_sha256=digest,
            details={"backbone": trained.name, "transform": transform_settings},
        )
        write_embeddings(outputs[split], embeddings)
    standardise.write_standardisation(outputs["standardisation"], standardisation, {"checkpoint_sha256": digest})


job.start(snakemake.log[0])
extract_embeddings(
    snakemake.input.images,
    snakemake.input.checkpoint,
    dict(snakemake.output.items()),
    snakemake.params.transform,
    snakemake.params.settings,
    choose_device(snakemake.params.device),
)

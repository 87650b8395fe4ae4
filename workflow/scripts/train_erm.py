"""Train a network by ERM on the training images of one dataset."""

import json
from pathlib import Path

from hsfm import job
from hsfm.backbone import build_network, write_checkpoint
from hsfm.device import Compute, choose_device
from hsfm.erm import LabelledImages, train
from hsfm.files import fingerprint, write_frame
from hsfm.images import read_images
from hsfm.pixel_cache import CacheFiles
from hsfm.pixels import common_size
from hsfm.source import open_source


def train_erm(
    images: str,
    cache: CacheFiles | None,
    checkpoint: str,
    history: str,
    run: int,
    settings: dict,
    code: list[str],
) -> None:
    table = read_images(images)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    backbone = {key: settings["backbone"][key] for key in ("name", "pretrained", "weights")}
    network = build_network(**backbone, n_classes=len(table.class_names), seed=run)
    source = open_source(images, cache)

    # The name says all that the result depends on, so that whatever has changed starts from the beginning.
    key = fingerprint(job.depends_on({**settings, "run": run}, [images, *code], str(compute.device)))
    resume = Path(checkpoint).with_name(f".resume-{key}.safetensors")
    frame = train(
        network,
        LabelledImages.of(table, source, "train"),
        LabelledImages.of(table, source, "val"),
        **settings["training"],
        transform_settings=settings["transform"],
        augment_settings=settings["augmentation"],
        seed=run,
        compute=compute,
        resume=resume,
    )
    write_frame(history, frame)
    metadata = {
        "dataset": table.dataset,
        "run": str(run),
        "transform": json.dumps(settings["transform"]),
        "image_size": json.dumps(common_size(table.rows)),
        "settings": json.dumps(settings),
    }
    write_checkpoint(
        checkpoint, network, name=settings["backbone"]["name"], class_names=table.class_names, metadata=metadata
    )
    for leftover in resume.parent.glob(".resume-*.safetensors"):
        leftover.unlink()


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
train_erm(
    snakemake.input.images,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.output.checkpoint,
    snakemake.output.history,
    int(snakemake.wildcards.run),
    dict(snakemake.params.items()),
    snakemake.input.code,
)

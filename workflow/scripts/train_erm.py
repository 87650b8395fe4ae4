"""Train a network by ERM on the training images of one dataset."""

import json
from pathlib import Path

import torch

from hsfm import job
from hsfm.backbone import build_network, write_checkpoint
from hsfm.device import choose_device
from hsfm.erm import LabelledImages, train
from hsfm.files import fingerprint, sha256, write_frame
from hsfm.images import ImageTable, check_pixels, read_images
from hsfm.pixels import common_size, open_pixels


def train_erm(images: str, checkpoint: str, history: str, run: int, settings: dict, code: list[str]) -> None:
    table = read_images(images)
    check_pixels(table, Path(images).parent)
    device = choose_device(settings["device"])
    backbone = {key: settings["backbone"][key] for key in ("name", "pretrained", "weights")}
    network = build_network(**backbone, n_classes=len(table.class_names), seed=run)
    folder = table.folder or Path(images).parent
    # The name says all that the result depends on, so that whatever has changed starts from the beginning.
    key = fingerprint(
        {
            **settings,
            "run": run,
            "images": sha256(images),
            "code": [sha256(path) for path in code],
            "torch": torch.__version__,
            "device": str(device),
            "threads": torch.get_num_threads(),
        }
    )
    resume = Path(checkpoint).with_name(f".resume-{key}.safetensors")
    frame = train(
        network,
        labelled(table, "train", folder),
        labelled(table, "val", folder),
        **settings["training"],
        transform_settings=settings["transform"],
        augment_settings=settings["augmentation"],
        seed=run,
        device=device,
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


def labelled(table: ImageTable, split: str, folder: str | Path) -> LabelledImages:
    rows = table.split(split)
    group = rows["group"].fillna(-1).astype("int64")
    return LabelledImages(
        open_pixels(rows, folder), torch.tensor(rows["y"].astype("int64").to_numpy()), torch.tensor(group.to_numpy())
    )


job.start(snakemake.log[0])
train_erm(
    snakemake.input.images,
    snakemake.output.checkpoint,
    snakemake.output.history,
    int(snakemake.wildcards.run),
    dict(snakemake.params.items()),
    snakemake.input.code,
)

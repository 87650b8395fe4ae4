"""Take the masks that a dataset knows itself: where minibirds' birds are."""

import numpy as np
import torch

from hsfm import job
from hsfm.augment import show
from hsfm.datasets import minibirds
from hsfm.files import sha256
from hsfm.images import read_names
from hsfm.masks import Masks, pack, write_masks
from hsfm.pixels import pack as pack_pixels


def take_masks(
    images: str, checkpoint: str, output: str, split: str, settings: dict, transform: dict, workers: int
) -> None:
    settings = {key: value for key, value in settings.items() if key != "source"}
    image_id, birds = minibirds.draw_masks(split, **settings, workers=workers)
    # through the transform as an image, so that it lies on what the network sees
    drawn = pack_pixels(list(np.repeat(birds[..., None] * np.uint8(255), 3, axis=-1)))
    kept = torch.cat([show(drawn[i : i + 256], transform, None, None)[:, 0] for i in range(0, len(drawn), 256)]) >= 128
    masks = Masks(
        image_id=tuple(image_id),
        packed=pack(kept),
        size=tuple(kept.shape[-2:]),
        cut=None,
        knee=None,
        loss=None,
        about={
            "dataset": read_names(images).dataset,
            "split": split,
            "source": "dataset",
            "cuts": [],
            "checkpoint_sha256": sha256(checkpoint),
            "transform": transform,
        },
    )
    write_masks(output, masks)


# the guard, because drawing starts worker processes that import this file
if __name__ == "__main__":
    job.start(snakemake.log[0])
    take_masks(
        snakemake.input.images,
        snakemake.input.checkpoint,
        snakemake.output.masks,
        snakemake.wildcards.split,
        snakemake.params.images,
        snakemake.params.transform,
        snakemake.threads,
    )

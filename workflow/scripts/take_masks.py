"""Take the masks that a dataset knows itself: where minibirds' birds are."""

import torch

from hsfm.core import job
from hsfm.core.files import sha256
from hsfm.data.sources import minibirds
from hsfm.data.table import read_names
from hsfm.data.transforms import show_masks
from hsfm.methods.dac.masks import Masks, pack, write_masks


def take_masks(
    images: str, checkpoint: str, output: str, split: str, settings: dict, transform: dict, workers: int
) -> str:
    settings = {key: value for key, value in settings.items() if key != "source"}
    image_id, birds = minibirds.draw_masks(split, **settings, workers=workers)
    # as they lie on what the network sees
    kept = torch.cat([show_masks(birds[first : first + 256], transform) for first in range(0, len(birds), 256)])
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
    return f"{len(masks):,} {split} images, as the dataset knows them"


# the guard, because drawing starts worker processes that import this file
if __name__ == "__main__":
    job.start(snakemake.log[0])
    taken = take_masks(
        snakemake.input.images,
        snakemake.input.checkpoint,
        snakemake.output.masks,
        snakemake.wildcards.split,
        snakemake.params.images,
        snakemake.params.transform,
        snakemake.threads,
    )
    job.finish("Masks", taken)

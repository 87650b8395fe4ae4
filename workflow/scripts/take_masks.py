"""Take the masks that a dataset knows itself: where minibirds' birds are."""

import torch

from hsfm.core import job
from hsfm.core.files import sha256, write_parquet
from hsfm.data.sources import minibirds
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings, show_masks
from hsfm.methods.dac.masks import Masks, as_table, pack

job.start(snakemake.log[0])
split, transform = snakemake.wildcards.split, snakemake.params.transform
settings, seen = minibirds.Settings(**snakemake.params.images), TransformSettings(**transform)
image_id, birds = minibirds.draw_masks(split, settings)
kept = torch.cat([show_masks(birds[first : first + 256], seen) for first in range(0, len(birds), 256)])
metadata = {
    "dataset": read_images(snakemake.input.images).dataset,
    "split": split,
    "source": "dataset",
    "cuts": [],
    "checkpoint_sha256": sha256(snakemake.input.checkpoint),
    "transform": transform,
}
size = tuple(kept.shape[-2:])
masks = Masks(tuple(image_id), pack(kept), size, cuts=None, metadata=metadata)
write_parquet(snakemake.output.masks, as_table(masks), {}, compression="zstd")
job.finish("Masks", f"{len(masks):,} {split} images, as the dataset knows them")

"""Make DaC's masks of the images of one split, by the heat maps of a network."""

from functools import partial

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.shards import Shard, write_rows_in_parts
from hsfm.data.open_images import open_source
from hsfm.data.table import read_images
from hsfm.heads.classifier import read_classifier
from hsfm.methods.dac.find_masks import mask_images
from hsfm.methods.dac.masks import MaskSettings, as_table

BATCHES = 8  # of a part; what a killed job loses at most

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, params, split = snakemake.input, snakemake.params, snakemake.wildcards.split
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardization)
table = read_images(files.images)
compute, settings = Compute.on(params.device, **params.compute), MaskSettings(**params.masks)
metadata = {
    "dataset": table.dataset,
    "split": split,
    "source": "heat_map",
    "cuts": list(settings.cuts),
    "checkpoint_sha256": model.checkpoint_sha256,
    "transform": params.transform,
}
mask = partial(
    mask_images,
    model.trained.network,
    source=open_source(files.images, files.cache),
    metadata=metadata,
    settings=settings,
    compute=compute,
)
read = [files.checkpoint, files.heads, files.standardization, files.images]
n = write_rows_in_parts(
    snakemake.output.masks,
    table.split(split),
    lambda parts, done: (as_table(mask(part, done=done)) for part in parts),
    size=BATCHES * settings.batch_size,
    what=f"masking {split}",
    depends_on=job.depends_on(dict(params.items()), read, str(compute.device)),
    shard=Shard.named(snakemake.wildcards.get("scatteritem")),
)
job.finish("Masks", f"{n:,} {split} images")

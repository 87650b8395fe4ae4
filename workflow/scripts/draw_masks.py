"""Draw what DaC makes of some training images of each group: heat map, mask, loss over the cuts, compositions."""

import torch

from hsfm.analysis.mask_pictures import mask_pictures, some_of_each_group
from hsfm.core import job
from hsfm.data.open_images import open_source
from hsfm.data.table import group_name, read_images
from hsfm.data.transforms import TransformSettings
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.classifier import read_classifier
from hsfm.methods.dac.fit import easy_rows
from hsfm.methods.dac.masks import read_masks
from hsfm.report.figures import save
from hsfm.report.pictures import draw_masks

job.start(snakemake.log[0])
inputs, transform, settings = snakemake.input, snakemake.params.transform, snakemake.params.shown
table = read_images(inputs.images)
rows, note = some_of_each_group(table.split("train"))
model = read_classifier(inputs.checkpoint, inputs.heads, standardization=inputs.standardization)
masks = read_masks(inputs.masks, split="train")
masks.require(transform=transform)
pictures = mask_pictures(
    model.trained.network,
    open_source(inputs.images, inputs.cache)(rows),
    torch.tensor(rows["y"].to_numpy(int)),
    masks.of(tuple(rows["image_id"])),
    TransformSettings(**transform),
    invert=settings["invert"],
)
train = read_embeddings(inputs.train, split="train")
easy = dict(zip(train.image_id, easy_rows(model.saved.head[0], train, settings["quantile"]).tolist(), strict=True))
for picture, row in zip(pictures, rows.itertuples(), strict=True):
    picture["name"] = group_name(table, row.y, row.attribute) + ("" if easy[row.image_id] else ", not selected")
title = f"{table.dataset}: what DaC takes for the object, and compositions (of images of low loss alone){note}"
save(draw_masks(pictures, masks.metadata["cuts"], title), *snakemake.output)
job.finish("Figure", snakemake.output[0])

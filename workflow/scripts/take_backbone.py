"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

import json

from hsfm.core import job
from hsfm.data.pixels import common_size
from hsfm.data.table import read_images
from hsfm.models import clip
from hsfm.models.backbone import Network, build_network, read_foreign, write_checkpoint


def take_backbone(images: str, checkpoint: str, run: int, backbone: dict, transform: dict) -> None:
    table = read_images(images)
    metadata = {
        "dataset": table.dataset,
        "run": str(run),
        "transform": json.dumps(transform),
        "image_size": json.dumps(common_size(table.rows)),
        "settings": json.dumps({"backbone": backbone, "transform": transform}),
    }
    write_checkpoint(
        checkpoint,
        take(backbone, len(table.class_names), transform),
        name=backbone["name"],
        class_names=table.class_names,
        metadata=metadata,
    )


def take(backbone: dict, n_classes: int, transform: dict) -> Network:
    if backbone["checkpoint"] is not None:
        network = read_foreign(backbone["checkpoint"], backbone["name"], n_classes)
    else:
        # its head is fresh, and is never used: fit_erm_head makes one
        network = build_network(
            backbone["name"], n_classes, pretrained=backbone["pretrained"], weights=backbone["weights"], seed=0
        )
    if backbone["name"].startswith(clip.PREFIX):
        clip.check_transform(network.body.visual, transform)
    return network


job.start(snakemake.log[0])
take_backbone(
    snakemake.input.images,
    snakemake.output.checkpoint,
    int(snakemake.wildcards.run),
    snakemake.params.backbone,
    snakemake.params.transform,
)
job.finish("Backbone", f"{snakemake.params.backbone['name']}, taken as it is")

"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

import json

from hsfm import job
from hsfm.backbone import Network, build_network, read_foreign, write_checkpoint
from hsfm.images import read_images
from hsfm.pixels import common_size


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
        take(backbone, len(table.class_names)),
        name=backbone["name"],
        class_names=table.class_names,
        metadata=metadata,
    )


def take(backbone: dict, n_classes: int) -> Network:
    if backbone["checkpoint"] is not None:
        return read_foreign(backbone["checkpoint"], backbone["name"], n_classes)
    # its head is fresh, and is never used: fit_erm_head makes one
    return build_network(
        backbone["name"], n_classes, pretrained=backbone["pretrained"], weights=backbone["weights"], seed=0
    )


job.start(snakemake.log[0])
take_backbone(
    snakemake.input.images,
    snakemake.output.checkpoint,
    int(snakemake.wildcards.run),
    snakemake.params.backbone,
    snakemake.params.transform,
)

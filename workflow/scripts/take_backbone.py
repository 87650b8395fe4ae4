"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

import json

from hsfm.core import job
from hsfm.data.pixels import common_size
from hsfm.data.table import read_images
from hsfm.models.backbone import take_network, write_checkpoint

job.start(snakemake.log[0])
table = read_images(snakemake.input.images)
backbone, transform = snakemake.params.backbone, snakemake.params.transform
metadata = {
    "dataset": table.dataset,
    "run": str(snakemake.wildcards.run),
    "transform": json.dumps(transform),
    "image_size": json.dumps(common_size(table.rows)),
    "settings": json.dumps({"backbone": backbone, "transform": transform}),
}
network = take_network(backbone, len(table.class_names), transform)
write_checkpoint(
    snakemake.output.checkpoint, network, name=backbone["name"], class_names=table.class_names, metadata=metadata
)
job.finish("Backbone", f"{backbone['name']}, taken as it is")

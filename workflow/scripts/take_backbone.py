"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

import json

from hsfm.core import job
from hsfm.data.pixels import common_size
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.models.backbone import BackboneSettings, take_network, write_checkpoint

job.start(snakemake.log[0])
table = read_images(snakemake.input.images)
params = snakemake.params
backbone, transform = BackboneSettings(**params.backbone), TransformSettings(**params.transform)
metadata = {
    "dataset": table.dataset,
    "run": str(snakemake.wildcards.run),
    "transform": json.dumps(params.transform),
    "image_size": json.dumps(common_size(table.rows)),
    "settings": json.dumps({"backbone": params.backbone, "transform": params.transform}),
}
network = take_network(backbone, len(table.class_names), transform)
write_checkpoint(
    snakemake.output.checkpoint, network, name=backbone.name, class_names=table.class_names, metadata=metadata
)
job.finish("Backbone", f"{backbone.name}, taken as it is")

"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

from hsfm.core import job
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.models.backbone import BackboneSettings, Checkpoint, describe, take_network, write_checkpoint
from hsfm.models.input_size import check_input_size

job.start(snakemake.log[0])
table = read_images(snakemake.input.images)
params = snakemake.params
backbone, transform = BackboneSettings(**params.backbone), TransformSettings(**params.transform)
network = take_network(backbone, len(table.class_names), transform)
check_input_size(network, table, transform)
metadata = describe(table, snakemake.wildcards.run, {"backbone": params.backbone, "transform": params.transform})
write_checkpoint(snakemake.output.checkpoint, Checkpoint(network, backbone.name, table.class_names, metadata))
job.finish("Backbone", f"{backbone.name}, taken as it is")

"""Take a backbone as it is: your own ERM network, or pretrained weights that are not trained further."""

from importlib import import_module

from hsfm.core import job
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.models.backbone import BackboneSettings, Checkpoint, describe, take_network, write_checkpoint
from hsfm.models.input_size import check_input_size

job.start(snakemake.log[0])
table = read_images(snakemake.input.images)
# not in the hash of this job's code, for it changes no output
asked = snakemake.config["asked_of_labels"][table.dataset]
import_module("hsfm.deploy.label_checks").check_table(table, asked)
params = snakemake.params
backbone, transform = BackboneSettings(**params.backbone), TransformSettings(**params.transform)
network = take_network(backbone, len(table.class_names), transform)
check_input_size(network, table, transform)
metadata = describe(table, snakemake.wildcards.run, {"backbone": params.backbone, "transform": params.transform})
write_checkpoint(snakemake.output.checkpoint, Checkpoint(network, backbone.name, table.class_names, metadata))
job.finish("Backbone", f"{backbone.name}, taken as it is")

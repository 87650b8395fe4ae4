"""Read the labels of a dataset whose images are files; no image is opened."""

from importlib import import_module

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.data import counts
from hsfm.data.table import ImageTable, complete, write_images

job.start(snakemake.log[0])
source = import_module(f"hsfm.data.sources.{snakemake.params.settings['source']}")
settings = source.Settings(**snakemake.params.settings)
listing = source.read(settings)
names = listing.class_names, listing.attribute_names
if not getattr(settings, "allow_other_counts", True):
    counts.check_counts(settings.source, listing)
rows = complete(listing.rows, listing.attribute_names)
table = ImageTable(rows, snakemake.wildcards.dataset, *names, settings.folder, listing.cells)
write_images(snakemake.output[0], table)
# not in the hash of this job's code, for it changes no output
asked = snakemake.config["asked_of_labels"][table.dataset]
import_module("hsfm.deploy.label_checks").check_table(table, asked, speaks=True)
job.finish("Image table", by_split(listing.rows["split"].value_counts(sort=False).to_dict()))

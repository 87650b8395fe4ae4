"""Write a dataset's images as one array, and its image table."""

from importlib import import_module

from joblib import parallel_config

from hsfm.core import job
from hsfm.core.files import write_array
from hsfm.core.text import by_split
from hsfm.data import counts
from hsfm.data.table import ImageTable, complete, write_images

job.start(snakemake.log[0])
outputs, params = snakemake.output, snakemake.params
source = import_module(f"hsfm.data.sources.{params.settings['source']}")
settings = source.Settings(**params.settings)
with parallel_config(n_jobs=snakemake.threads):
    packed = source.pack(settings)
names = packed.class_names, packed.attribute_names
if not getattr(settings, "allow_other_counts", True):
    counts.check_counts(settings.source, packed)
write_array(outputs.pixels, packed.pixels)
height, width = packed.pixels.shape[1:3]
rows = complete(packed.rows.assign(path="pixels.npy", height=height, width=width), packed.attribute_names)
table = ImageTable(rows, snakemake.wildcards.dataset, *names)
write_images(outputs.images, table)
# not in the hash of this job's code, for it changes no output
asked = snakemake.config["asked_of_labels"][table.dataset]
import_module("hsfm.deploy.label_checks").check_table(table, asked, speaks=True)
splits = by_split(rows["split"].value_counts(sort=False).to_dict())
job.finish("Images", f"{splits}, {height} x {width} pixels")

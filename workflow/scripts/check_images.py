"""Open every image file once: its size, and whether it can be read at all."""

from hsfm.core import job
from hsfm.data.store import inspect
from hsfm.data.table import read_images, write_readable

job.start(snakemake.log[0])
outputs, params, table = snakemake.output, snakemake.params, read_images(snakemake.input.listed)
found = inspect(table.rows, table.folder, workers=snakemake.threads)
unreadable = write_readable(outputs.images, table, found, outputs.unreadable, on_bad_image=params.on_bad_image)
job.finish("Images", f"{len(found) - len(unreadable):,} readable, {len(unreadable)} not")

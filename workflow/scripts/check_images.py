"""Open every image file once: its size, and whether it can be read at all."""

from hsfm.core import job
from hsfm.data.pixels import inspect
from hsfm.data.table import read_images, write_readable

job.start(snakemake.log[0])
outputs, table = snakemake.output, read_images(snakemake.input.listed)
found = inspect(table.rows, table.folder, workers=snakemake.threads)
readable, unreadable = write_readable(
    outputs.images, table, found, outputs.unreadable, on_bad_image=snakemake.params.on_bad_image
)
job.finish("Images", f"{len(readable.rows):,} readable, {len(unreadable)} not")

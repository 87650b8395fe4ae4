"""Decode every image file once, into the store that all later stages read; unreadable ones stop it or are left out."""

from pathlib import Path

from hsfm.core import job
from hsfm.core.files import in_bytes
from hsfm.data.store import decode_images
from hsfm.data.table import read_images, write_readable

job.start(snakemake.log[0])
outputs, params, table = snakemake.output, snakemake.params, read_images(snakemake.input.listed)
store = outputs.pixels, outputs.index
found = decode_images(table.rows, table.folder, *store, params.decode_size, workers=snakemake.threads)
unreadable = write_readable(outputs.images, table, found, outputs.unreadable, on_bad_image=params.on_bad_image)
left_out = f", {len(unreadable)} unreadable left out" if len(unreadable) else ""
size = in_bytes(Path(outputs.pixels).stat().st_size)
job.finish("Images", f"{len(found) - len(unreadable):,} decoded, {size}{left_out}")

"""Decode every image file once, into the store that all later stages read; unreadable ones stop it or are left out."""

from hsfm.core import job
from hsfm.core.files import in_bytes
from hsfm.data.store import CacheFiles, decode_images
from hsfm.data.table import read_images, write_readable

job.start(snakemake.log[0])
outputs, params, table = snakemake.output, snakemake.params, read_images(snakemake.input.listed)
cache = CacheFiles.of([outputs.pixels, outputs.index], params.decode_size)
found = decode_images(table.rows, table.folder, cache, workers=snakemake.threads)
unreadable = write_readable(outputs.images, table, found, outputs.unreadable, on_bad_image=params.on_bad_image)
left_out = f", {len(unreadable)} unreadable left out" if len(unreadable) else ""
size = in_bytes(cache.pixels.stat().st_size)
job.finish("Images", f"{len(found) - len(unreadable):,} decoded, {size}{left_out}")

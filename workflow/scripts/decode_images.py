"""Decode every image file once, into the cache that all later stages read; unreadable ones stop it or are left out."""

from dataclasses import replace
from pathlib import Path

from hsfm.core import job
from hsfm.core.files import in_bytes, write_atomically
from hsfm.data.store import CacheFiles, decode_images
from hsfm.data.table import leave_out_unreadable, read_images, write_images


def decode(listed: str, images: str, unreadable: str, cache: CacheFiles, on_bad_image: str, workers: int) -> str:
    table = read_images(listed)
    decoded = decode_images(table.rows, table.folder, cache, workers=workers)
    size = {"height": decoded.found["original_height"], "width": decoded.found["original_width"]}
    measured = replace(table, rows=table.rows.assign(**size))
    readable, listing = leave_out_unreadable(measured, decoded.found["problem"], unreadable, on_bad_image=on_bad_image)
    write_images(images, readable)
    with write_atomically(unreadable) as temporary:
        listing.to_csv(temporary, index=False)
    decoded.finish()
    left_out = f", {len(listing)} unreadable left out" if len(listing) else ""
    size = in_bytes(cache.pixels.stat().st_size)
    return f"{len(readable.rows):,} decoded, {size}{left_out}"


job.start(snakemake.log[0])
decoded = decode(
    snakemake.input.listed,
    snakemake.output.images,
    snakemake.output.unreadable,
    CacheFiles(Path(snakemake.output.pixels), Path(snakemake.output.index), snakemake.params.decode_size),
    snakemake.params.on_bad_image,
    snakemake.threads,
)
job.finish("Images", decoded)

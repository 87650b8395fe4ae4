"""Open every image file once: its size, and whether it can be read at all."""

from dataclasses import replace

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.data.pixels import inspect
from hsfm.data.table import leave_out_unreadable, read_images, write_images


def check_images(listed: str, images: str, unreadable: str, on_bad_image: str, workers: int) -> str:
    table = read_images(listed)
    found = inspect(table.rows, table.folder, workers=workers)
    measured = replace(table, rows=table.rows.assign(height=found["height"], width=found["width"]))
    readable, listing = leave_out_unreadable(measured, found["problem"], unreadable, on_bad_image=on_bad_image)
    write_images(images, readable)
    with write_atomically(unreadable) as temporary:
        listing.to_csv(temporary, index=False)
    return f"{len(readable.rows):,} readable, {len(listing)} not"


job.start(snakemake.log[0])
checked = check_images(
    snakemake.input.listed,
    snakemake.output.images,
    snakemake.output.unreadable,
    snakemake.params.on_bad_image,
    snakemake.threads,
)
job.finish("Images", checked)

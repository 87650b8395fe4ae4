"""Open every image file once: its size, and whether it can be read at all."""

import logging
from dataclasses import replace

from hsfm import job
from hsfm.files import write_atomically
from hsfm.images import read_images, write_images
from hsfm.pixels import inspect

log = logging.getLogger("hsfm")


def check_images(listed: str, images: str, unreadable: str, on_bad_image: str, workers: int) -> None:
    table = read_images(listed)
    found = inspect(table.rows, table.folder, workers=workers)
    bad = found["problem"].notna()
    listing = table.rows.loc[bad, ["image_id", "path", "split"]].assign(problem=found.loc[bad, "problem"])
    if bad.any():
        few = "; ".join(f"{row.path}: {row.problem}" for row in listing.head(10).itertuples())
        message = (
            f"{table.folder}: cannot read {bad.sum()} of {len(bad)} images: {few}{'; ...' if bad.sum() > 10 else ''}"
        )
        if on_bad_image == "stop":
            raise ValueError(f"{message}; on_bad_image: skip leaves such images out")
        log.warning("%s; they are left out and listed in %s", message, unreadable)
    rows = table.rows.assign(height=found["height"], width=found["width"])[~bad].reset_index(drop=True)
    write_images(images, replace(table, rows=rows))
    with write_atomically(unreadable) as temporary:
        listing.to_csv(temporary, index=False)


job.start(snakemake.log[0])
check_images(
    snakemake.input.listed,
    snakemake.output.images,
    snakemake.output.unreadable,
    snakemake.params.on_bad_image,
    snakemake.threads,
)

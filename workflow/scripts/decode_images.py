"""Decode every image file once, into the store if there is one; unreadable ones stop it or are left out."""

from importlib import import_module
from pathlib import Path

from hsfm.core import job
from hsfm.data.store import decode_images, inspect
from hsfm.data.table import read_images, write_readable

job.start(snakemake.log[0])
outputs, params, table = snakemake.output, snakemake.params, read_images(snakemake.input.listed)
# not in the hash of this job's code, for it changes no output
asked, checks = snakemake.config["asked_of_labels"][table.dataset], import_module("hsfm.deploy.label_checks")
checks.check_table(table, asked)
if outputs.get("pixels"):
    store = outputs.pixels, outputs.index
    found = decode_images(table.rows, table.folder, *store, params.decode_size, workers=snakemake.threads)
    done = f"decoded, {Path(outputs.pixels).stat().st_size / 1e6:,.0f} MB"
else:
    found, done = inspect(table.rows, table.folder, workers=snakemake.threads), "readable"
unreadable = write_readable(outputs.images, table, found, outputs.unreadable, on_bad_image=params.on_bad_image)
if len(unreadable):
    checks.check_table(read_images(outputs.images), asked, speaks=True)
left_out = f", {len(unreadable)} unreadable left out" if len(unreadable) else ""
job.finish("Images", f"{len(found) - len(unreadable):,} {done}{left_out}")

"""Describe the images of one dataset."""

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.data.table import read_images
from hsfm.report.card import count_groups, write_text

job.start(snakemake.log[0])
table = read_images(snakemake.input.images)
counts = count_groups(table)
with write_atomically(snakemake.output.counts) as temporary:
    counts.to_csv(temporary, index=False)
with write_atomically(snakemake.output.card) as temporary:
    temporary.write_text(write_text(table, counts))
job.finish("Data card", f"{snakemake.output.card}, {len(table.rows):,} images")

"""Describe the images of one dataset: counts, a card, examples of every group."""

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.data.open_images import read_examples
from hsfm.data.table import read_images
from hsfm.report.card import count_groups, write_text
from hsfm.report.figures import save
from hsfm.report.pictures import draw_examples

job.start(snakemake.log[0])
outputs, table = snakemake.output, read_images(snakemake.input.images)
counts = count_groups(table)
with write_atomically(outputs.counts) as temporary:
    counts.to_csv(temporary, index=False)
with write_atomically(outputs.card) as temporary:
    temporary.write_text(write_text(table, counts))
title = f"{table.dataset}: training images by class and attribute, with the group's share"
examples = read_examples(snakemake.input.images)
for path in outputs.examples:
    # drawn anew for each: a layout that was computed once moves at the second save
    save(draw_examples(examples, title), path)
job.finish("Data card", f"{outputs.card}, {len(table.rows):,} images")

"""Draw a contact sheet of generated images: source, mask, what was made of it, and why it was kept or not."""

from hsfm.analysis.generated_pictures import count_kept, generated_pictures
from hsfm.core import job
from hsfm.data.open_images import open_pictures
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_table
from hsfm.report.figures import save
from hsfm.report.pictures import draw_generated

job.start(snakemake.log[0])
inputs = snakemake.input
pruned, metadata = read_table(inputs.pruned, PRUNED)
generated, _ = read_table(inputs.generated, GENERATED)
sources = open_pictures(inputs.images, inputs.cache)
classes, limit = metadata["classes"], metadata["rules"]["attribution"]
pictures = generated_pictures(pruned, generated, sources, classes, limit)
title = f"{snakemake.wildcards.dataset}: {count_kept(pruned, classes)}"
save(draw_generated(pictures, title), *snakemake.output)
job.finish("Figure", snakemake.output[0])

"""Draw the pictures that unCLIP made of HSFM's edits, beside the images that they come from."""

from hsfm.analysis.unclip import SCHEMA, decoded_pictures
from hsfm.core import job
from hsfm.core.files import read_parquet
from hsfm.data.open_images import open_pictures
from hsfm.data.table import read_images
from hsfm.report.figures import save
from hsfm.report.pictures import draw_decoded

job.start(snakemake.log[0])
inputs = snakemake.input
table, _ = read_parquet(inputs.decoded, SCHEMA)
names = read_images(inputs.images)
originals = open_pictures(inputs.images, inputs.cache)
title = (
    f"{names.dataset}: HSFM's edits decoded by unCLIP, and what CLIP takes them for;\n"
    f"another attribute after the edit in {sum(table['moved'].to_pylist())} of {len(table)} pairs (bold, orange)"
)
save(draw_decoded(decoded_pictures(table, names, originals), title), *snakemake.output)
job.finish("Figure", snakemake.output[0])

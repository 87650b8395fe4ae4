"""Draw what HSFM's edits mean: arrows in the plane of two directions, nearest images."""

from hsfm.analysis.edit_pictures import in_plane, neighbor_pictures
from hsfm.analysis.edits import read_edits
from hsfm.core import job
from hsfm.data.open_images import open_pictures
from hsfm.features.embeddings import read_embeddings
from hsfm.methods.hsfm.support import read_support
from hsfm.report.edit_figures import draw_plane
from hsfm.report.figures import save
from hsfm.report.pictures import draw_neighbors

job.start(snakemake.log[0])
inputs, outputs, dataset = snakemake.input, snakemake.output, snakemake.wildcards.dataset
train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
edits, _ = read_edits(inputs.edits)
seed = edits["seed"].iloc[0]

support = read_support(inputs.support).of(seed)
plane = in_plane(support, train, val)
drawn, rows = len(plane["before"]), len(support.y)
shown = "" if drawn == rows else f" ({drawn} of {rows} support rows)"
figure = draw_plane(**plane, title=f"{dataset}: HSFM's edits, seed {seed}{shown}")
save(figure, *outputs.edits)

if inputs.get("images"):
    pictures = open_pictures(inputs.images, inputs.cache)
    title = f"{dataset}: longest edits of each group, seed {seed} (bold, orange: another attribute than the support's)"
    figure = draw_neighbors(neighbor_pictures(edits[edits["seed"] == seed], train, pictures), title)
    save(figure, *outputs.neighbors)
job.finish("Figures", ", ".join(path for path in outputs if path.endswith(".png")))

"""Draw what HSFM's edits mean: arrows in the plane of two directions, nearest images, cosines."""

import numpy as np
import pandas as pd
import torch

from hsfm.analysis.edits import largest_of_each_group, read_edits
from hsfm.analysis.plane import in_plane, name_of
from hsfm.core import job
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_names
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.methods.hsfm.support import read_support
from hsfm.report import edit_figures, figures

ARROWS = 60  # support rows that are drawn
SHOWN = 8  # of the largest edits, as pictures
NEAREST = 4


def draw(inputs: dict, outputs: dict, dataset: str, cache: CacheFiles | None) -> None:
    edits, _ = read_edits(inputs["edits"])
    train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
    seed = edits["seed"].iloc[0]
    first = edits[edits["seed"] == seed].reset_index(drop=True)
    save(outputs, "edits", plane(inputs["support"], first, train, val, f"{dataset}: HSFM's edits, seed {seed}"))
    save(outputs, "cosines", edit_figures.draw_cosines(edits, f"{dataset}: where HSFM's edits point"))
    if "images" in inputs:
        title = (
            f"{dataset}: longest edits of each group, seed {seed} (bold, orange: another attribute than the support's)"
        )
        save(outputs, "neighbours", neighbours(inputs["images"], first, train, cache, title))


def save(outputs: dict, name: str, figure: object) -> None:
    for suffix in ("png", "pdf"):
        figures.save(figure, outputs[f"{name}_{suffix}"])


def plane(path: str, rows: pd.DataFrame, train: Embeddings, val: Embeddings, title: str) -> object:
    support = read_support(path)
    chosen = torch.tensor([seed == rows["seed"].iloc[0] for seed in support.seed])
    order = np.unique(np.linspace(0, len(rows) - 1, ARROWS).round().astype(int))
    own = rows.iloc[order]
    names = [name_of(val, y, -1 if pd.isna(a) else int(a)) for y, a in zip(own["y"], own["attribute"], strict=True)]
    shown = "" if len(order) == len(rows) else f" ({len(order)} of {len(rows)} support rows)"
    found = in_plane(support.before[chosen][order], support.after[chosen][order], train, val)
    return edit_figures.draw_plane(found.points, found.before, found.after, names, found.labels, title + shown)


def neighbours(images: str, rows: pd.DataFrame, train: Embeddings, cache: CacheFiles | None, title: str) -> object:
    # as many of each group, as far as they go
    groups = rows.groupby([rows["y"], rows["attribute"].fillna(-1)]).ngroups
    largest = largest_of_each_group(rows, max(SHOWN // groups, 1)).head(SHOWN)
    names = read_names(images)
    group = {
        image_id: (y, a)
        for image_id, y, a in zip(train.image_id, train.y.tolist(), train.attribute.tolist(), strict=True)
    }
    open_ = open_pictures(images, cache)

    def near(image_id: list[str], own: int) -> list[tuple]:
        found = []
        for one, picture in zip(image_id[:NEAREST], open_(list(image_id[:NEAREST])), strict=True):
            y, a = group[one]
            attribute = names.attribute_names[a] if a >= 0 else "unknown"
            found.append((figures.thumbnail(picture), f"{names.class_names[y]},\n{attribute}", a != own))
        return found

    pictures = []
    for row in largest.itertuples():
        own = -1 if pd.isna(row.attribute) else int(row.attribute)
        attribute = names.attribute_names[own] if own >= 0 else "unknown"
        pictures.append(
            {
                "name": f"{names.class_names[row.y]},\n{attribute}",
                "caption": f"edit {row.relative_length:.2f}",
                "image": figures.thumbnail(open_([row.image_id])[0]),
                "before": near(row.nearest_before, own),
                "after": near(row.nearest_after, own),
            }
        )
    return edit_figures.draw_neighbours(pictures, title)


job.start(snakemake.log[0])
draw(
    dict(snakemake.input.items()),
    dict(snakemake.output.items()),
    snakemake.wildcards.dataset,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
)
job.finish("Figures", ", ".join(path for path in snakemake.output if path.endswith(".png")))

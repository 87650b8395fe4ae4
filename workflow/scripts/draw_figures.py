"""Draw figures of one dataset that show images or features: inferred groups, masks, generated images, HSFM's edits."""

from functools import cache

import pandas as pd
import torch
from matplotlib.figure import Figure

from hsfm.analysis import unclip
from hsfm.analysis.edit_pictures import in_plane, neighbor_pictures
from hsfm.analysis.edits import read_edits
from hsfm.analysis.generated_pictures import count_kept, generated_pictures
from hsfm.analysis.mask_pictures import mask_pictures, some_of_each_group
from hsfm.analysis.method_panels import hardest_pictures, held_by, inner_loops, support_panel
from hsfm.core import job
from hsfm.core.files import read_described, read_frame, read_parquet
from hsfm.data.open_images import open_pictures, open_source
from hsfm.data.table import group_name, read_images
from hsfm.data.transforms import TransformSettings
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.hard_set import read_need
from hsfm.heads.head import read_heads
from hsfm.methods.dac.fit import easy_rows
from hsfm.methods.dac.masks import read_masks
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_table
from hsfm.methods.hsfm.outer_loop import Settings, symbols
from hsfm.methods.hsfm.support import read_support
from hsfm.report import pictures
from hsfm.report.edit_figures import draw_plane
from hsfm.report.figures import save
from hsfm.report.found_figures import FOUND, draw_found_groups, found_pictures, said
from hsfm.report.histories import HARD_GROUPS
from hsfm.report.method_figure import HISTORY, MethodData, draw_method
from hsfm.report.names import method_label

inputs, params, dataset = snakemake.input, snakemake.params, snakemake.wildcards.dataset


@cache
def embeddings(split: str) -> Embeddings:
    return read_embeddings(inputs[split], split=split)


@cache
def found() -> tuple[pd.DataFrame, dict, str]:
    """Inferred groups, facts about them, and a title."""
    table, facts = read_described(inputs.found, FOUND)
    return table, facts, f"{dataset}: {method_label(params.finder)}, run {params.run}: {said(facts)}"


def found_groups() -> Figure:
    """Scores of validation along the attribute that was inferred."""
    return draw_found_groups(*found())


def found_images() -> Figure:
    """Images of each inferred group."""
    table, facts, title = found()
    shown = found_pictures(table, facts, open_pictures(inputs.images, inputs.cache))
    return pictures.draw_found_images(shown, title)


def masks() -> Figure:
    """Some training images of each group as DaC sees them: heat map, mask, loss over the cuts, compositions."""
    table = read_images(inputs.images)
    rows, note = some_of_each_group(table.split("train"))
    model = read_classifier(inputs.checkpoint, inputs.erm, standardization=inputs.standardization)
    masks = read_masks(inputs.masks, split="train")
    masks.require(transform=params.transform)
    shown = mask_pictures(
        model.trained.network,
        open_source(inputs.images, inputs.cache)(rows),
        torch.tensor(rows["y"].to_numpy(int)),
        masks.of(tuple(rows["image_id"])),
        TransformSettings(**params.transform),
        invert=params.dac["invert"],
    )
    train = embeddings("train")
    easy = dict(
        zip(train.image_id, easy_rows(model.saved.head[0], train, params.dac["quantile"]).tolist(), strict=True)
    )
    for picture, row in zip(shown, rows.itertuples(), strict=True):
        picture["name"] = group_name(table, row.y, row.attribute) + ("" if easy[row.image_id] else ", not selected")
    title = f"{dataset}: what DaC takes for the object, and compositions (of images of low loss alone){note}"
    return pictures.draw_masks(shown, masks.metadata["cuts"], title)


def generated() -> Figure:
    """A contact sheet of generated images: source, mask, what was made of it, and why it was kept or not."""
    pruned, metadata = read_table(inputs.pruned, PRUNED)
    made, _ = read_table(inputs.generated, GENERATED)
    sources = open_pictures(inputs.images, inputs.cache)
    classes = metadata["classes"]
    title = f"{dataset}: {count_kept(pruned, classes)}"
    return pictures.draw_generated(generated_pictures(pruned, made, sources, classes, metadata["rules"]), title)


def method() -> Figure:
    """HSFM as four connected panels out of the first seed of the first run."""
    train, val = embeddings("train"), embeddings("val")
    erm, saved = read_heads(inputs.erm).head[0], read_heads(inputs.heads)
    seed, settings = saved.seeds[0], saved.settings
    history, counts = (
        frame[frame["seed"] == seed].reset_index(drop=True)
        for frame in (read_frame(inputs.history, HISTORY), read_frame(inputs.hard_groups, HARD_GROUPS))
    )
    kept = int(history.loc[history["kept"], "epoch"].iloc[0])
    support = read_support(inputs.support).of(seed)
    first = read_need(inputs.hard_set, val, {"hard_per_class": settings["hard_per_class"]})
    images = open_pictures(inputs.images, inputs.cache)
    return draw_method(
        MethodData(
            title=f"{dataset}: HSFM, run {params.run}, seed {seed}; {len(history)} epochs, epoch {kept} is kept",
            settings=settings,
            symbols=symbols(Settings(**{name: settings[name] for name in Settings.model_fields})),
            **support_panel(support, train, val, images),
            loops=inner_loops(erm, saved.head[0], support, val, first.chosen, kept, settings),
            hardest=hardest_pictures(first, val, images) if settings["outer_set"] == "hard" else [],
            held=held_by(counts, val, kept),
            history=history,
        )
    )


def edits() -> Figure:
    """Arrows of HSFM's edits in the plane of two directions."""
    seed = read_edits(inputs.edits)[0]["seed"].iloc[0]
    support = read_support(inputs.support).of(seed)
    plane = in_plane(support, embeddings("train"), embeddings("val"))
    drawn, rows = len(plane["before"]), len(support.y)
    shown = "" if drawn == rows else f" ({drawn} of {rows} support rows)"
    return draw_plane(**plane, title=f"{dataset}: HSFM's edits, seed {seed}{shown}")


def edit_neighbors() -> Figure:
    """Nearest images before and after the longest edits."""
    table = read_edits(inputs.edits)[0]
    seed = table["seed"].iloc[0]
    images = open_pictures(inputs.images, inputs.cache)
    title = f"{dataset}: longest edits of each group, seed {seed} (bold, orange: another attribute than the support's)"
    return pictures.draw_neighbors(neighbor_pictures(table[table["seed"] == seed], embeddings("train"), images), title)


def decoded() -> Figure:
    """Pictures of HSFM's edits by unCLIP, beside the images that they come from."""
    table, _ = read_parquet(inputs.decoded, unclip.SCHEMA)
    names = read_images(inputs.images)
    originals = open_pictures(inputs.images, inputs.cache)
    title = (
        f"{names.dataset}: HSFM's edits decoded by unCLIP, and what CLIP takes them for;\n"
        f"another attribute after the edit in {sum(table['moved'].to_pylist())} of {len(table)} pairs (bold, orange)"
    )
    return pictures.draw_decoded(unclip.decoded_pictures(table, names, originals), title)


DRAW = {
    "found_groups": found_groups, "found_images": found_images,
    "masks": masks, "generated": generated, "method": method, "edits": edits, "edit_neighbors": edit_neighbors,
    "unclip": decoded,
}  # fmt: skip

job.start(snakemake.log[0])
for name, files in snakemake.output.items():
    save(DRAW[name](), *files)
job.finish("Figures", ", ".join(path for path in snakemake.output if path.endswith(".png")))

"""Draw a contact sheet of generated images: source, mask, what was made of it, and why it was kept or not."""

import textwrap

import pandas as pd

from hsfm.core import job
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_mask, read_png, read_table
from hsfm.report import figures

KEPT, DROPPED = 6, 2  # images of a class that are shown; dropped ones of each reason


def draw_generated(inputs: dict, outputs: list[str], dataset: str, cache: CacheFiles | None) -> None:
    pruned, about = read_table(inputs["pruned"], PRUNED)
    classes = about["classes"]
    rows = some_of_each_fate(pruned)
    generated, _ = read_table(inputs["generated"], GENERATED)
    generated = generated.set_index("image_id").loc[rows["image_id"]]
    sources = open_pictures(inputs["images"], cache)(rows["source_id"].to_list())
    pictures = [
        {
            "name": f"{classes[row.source_y]} to\n{classes[row.y]}",
            "source": figures.thumbnail(source),
            "mask": None if made.mask is None else figures.thumbnail(read_mask(made.mask)),
            "generated": None if made.image is None else figures.thumbnail(read_png(made.image)),
            "kept": row.kept,
            "caption": caption(row, about["rules"]["attribution"]),
        }
        for row, made, source in zip(rows.itertuples(), generated.itertuples(), sources, strict=True)
    ]
    figure = figures.draw_generated(pictures, f"{dataset}: {summary(pruned, classes)}")
    for path in outputs:
        figures.save(figure, path)


def some_of_each_fate(pruned: pd.DataFrame) -> pd.DataFrame:
    """The first few images of each class and fate, from different sources where there are."""
    several = pruned.assign(fate=pruned["why_not"].fillna(""))
    several = several.sort_values("number", kind="stable")  # one of each source before a second of any
    parts = [
        part.head(DROPPED if fate else KEPT).sort_index()
        for (_, fate), part in several.groupby(["y", "fate"], sort=True)
    ]
    return pd.concat(parts)


def caption(row: object, min_attribution: float) -> str:
    if row.attribution is None:
        return textwrap.fill(row.why_not, 22)
    share = f"{100 * row.attribution:.0f} % on the object (> {100 * min_attribution:.0f})"
    return f"{'kept' if row.kept else 'dropped'}\n{share}\np = {row.probability:.3f} (< {row.limit:.3f})"


def summary(pruned: pd.DataFrame, classes: list[str]) -> str:
    counts = [
        f"{int(part['kept'].sum())} of {len(part)} generated images of {classes[y]} kept"
        for y, part in pruned.groupby("y")
    ]
    return "; ".join(counts)


job.start(snakemake.log[0])
draw_generated(
    dict(snakemake.input.items()),
    list(snakemake.output),
    snakemake.wildcards.dataset,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
)
job.finish("Figure", snakemake.output[0])

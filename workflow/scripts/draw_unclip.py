"""Draw the pictures that unCLIP made of HSFM's edits, beside the images that they come from."""

import pyarrow as pa

from hsfm.analysis.edits import DECODED
from hsfm.core import job
from hsfm.core.files import read_parquet
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_names
from hsfm.methods.ddb.generated import read_png
from hsfm.report import edit_figures, figures

SIDE = 160  # pixels, in the figure


def draw_unclip(inputs: dict, outputs: list[str], cache: CacheFiles | None) -> None:
    table, _ = read_parquet(inputs["decoded"], DECODED)
    names, originals = read_names(inputs["images"]), open_pictures(inputs["images"], cache)
    title = (
        f"{names.dataset}: HSFM's edits decoded by unCLIP, and what CLIP takes them for;\n"
        f"another attribute after the edit in {sum(table['moved'].to_pylist())} of {len(table)} pairs (bold, orange)"
    )
    figure = edit_figures.draw_decoded(rows_of(table, names, originals), title)
    for path in outputs:
        figures.save(figure, path)


def rows_of(table: pa.Table, names: object, originals: object) -> list[dict]:
    return [
        {
            "name": f"{names.class_names[row['y']]},\n"
            + ("unknown" if row["attribute"] is None else names.attribute_names[row["attribute"]]),
            "original": figures.thumbnail(originals([row["image_id"]])[0], SIDE),
            **{
                when: (
                    figures.thumbnail(read_png(row[f"picture_{when}"]), SIDE),
                    f"{names.attribute_names[row[f'attribute_{when}']]}, "
                    f"{100 * max(row[f'probabilities_{when}']):.0f} %",
                )
                for when in ("before", "after")
            },
            "moved": row["moved"],
        }
        for row in table.to_pylist()
    ]


job.start(snakemake.log[0])
draw_unclip(
    dict(snakemake.input.items()),
    list(snakemake.output),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
)
job.finish("Figure", snakemake.output[0])

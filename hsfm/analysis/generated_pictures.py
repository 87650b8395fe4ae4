"""Contact sheet of DDB's generated images: source, mask, what was made of it, and why it was kept or not."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hsfm.methods.ddb.generated import read_png

KEPT, DROPPED = 6, 2  # images of a class that are shown; dropped ones of each reason


def generated_pictures(
    pruned: pd.DataFrame,
    generated: pd.DataFrame,
    sources: Callable[[Sequence[str]], list[np.ndarray]],
    class_names: Sequence[str],
    rules: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Some images of each class and fate: name, source, mask, generated, kept, caption.

    pruned, generated: rows of the two tables. sources: a function from image ids to images.
    rules: of `hsfm.methods.ddb.prune.PruneSettings`.
    """
    rows = some_of_each_fate(pruned)
    made = generated.set_index("image_id").loc[rows["image_id"]]
    return [
        {
            "name": f"{class_names[row.source_y]} to\n{class_names[row.y]}",
            "source": source,
            "mask": None if mask is None else read_png(mask),
            "generated": None if image is None else read_png(image),
            "kept": row.kept,
            "caption": caption(row, rules),
        }
        for row, mask, image, source in zip(
            rows.itertuples(), made["mask"], made["image"], sources(rows["source_id"].to_list()), strict=True
        )
    ]


def some_of_each_fate(pruned: pd.DataFrame) -> pd.DataFrame:
    """The first few images of each class and fate, from different sources where there are."""
    several = pruned.assign(fate=pruned["why_not"].fillna("")).sort_values("number", kind="stable")
    fates = several.groupby(["y", "fate"], sort=True)
    return pd.concat([part.head(DROPPED if fate else KEPT).sort_index() for (_, fate), part in fates])


def caption(row: Any, rules: Mapping[str, Any]) -> str:
    """The measures of an image beside their limits, or why none was made."""
    if row.attribution is None:
        return textwrap.fill(row.why_not, 22)
    found, limit = row.attribution, rules["attribution"]
    there = f"{100 * found:.0f} % on the object (> {100 * limit:.0f})"
    if rules["rule"] == "sum":
        there = f"{found:.2f} on the object (> {limit:.2f})"
    return f"{'kept' if row.kept else 'dropped'}\n{there}\np = {row.probability:.3f} (< {row.limit:.3f})"


def count_kept(pruned: pd.DataFrame, class_names: Sequence[str]) -> str:
    """Kept images of each class, in words."""
    return "; ".join(
        f"{int(part['kept'].sum())} of {len(part)} generated images of {class_names[y]} kept"
        for y, part in pruned.groupby("y")
    )

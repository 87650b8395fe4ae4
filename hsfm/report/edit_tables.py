"""Tables of the analysis of support edits: data frames in, text out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hsfm.core.text_tables import TextTable


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, and one per class of it: means over all edits of all runs and seeds; null where unknown.

    rows: edits as `edits.measure` gives them, with columns dataset, run and class_name. Shares are fractions. Rows
    that were not edited count for their number alone. In a dataset's own row class_name is empty.
    """
    summaries = []
    for dataset, part in rows.groupby("dataset", sort=False):
        for name, own in [("", part), *part.groupby("class_name", sort=False)]:
            summaries.append({"dataset": dataset, "class_name": name, **_means(own)})
    return pd.DataFrame(summaries)


def _means(rows: pd.DataFrame) -> dict[str, Any]:
    edited = rows[rows["length"] > 0]
    away = edited["cos_away"].dropna() > 0
    flips = edited[["attribute_flips", "class_flips"]].astype("Float64").mean()
    names = ["own_before", "own_after", "probe_before", "probe_after"]
    return {
        **{"runs": rows["run"].nunique(), "rows": len(rows), "edited": len(edited)},
        "relative_length": edited["relative_length"].mean(),
        "cos_spurious_size": edited["cos_spurious"].abs().mean(),
        "cos_class_size": edited["cos_class"].abs().mean(),
        # mean size of a normal variable of that deviation
        "random_size": np.sqrt(2 / np.pi) * edited["random_spread"].mean(),
        "pairs_spread": edited["pairs_spread"].mean(),
        **{"cos_away": edited["cos_away"].mean(), "away": away.mean() if len(away) else np.nan},
        **flips,
        **edited[names].mean(),
    }


def direction_notes(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A note on the directions and the probe of each dataset. runs: metadata of its edits, run by run."""
    return [f"{dataset}: {_on_directions(of_runs)}." for dataset, of_runs in runs.items()]


def _on_directions(runs: Sequence[Mapping[str, Any]]) -> str:
    if not runs[0]["spurious"]:
        return "no two attributes are known within a class, so that there is no spurious direction"
    means = pd.DataFrame(runs).reindex(columns=["directions_cosine", "probe_accuracy"])
    overlap, accuracy = means.astype(float).mean()
    split = "" if runs[0]["directions_of"] == "val" else " of train, since validation shows one attribute,"
    text = "there are too few images for a probe"
    if pd.notna(accuracy):
        text = f"the probe{split} tells the attribute of {100 * accuracy:.1f} % of images it has not seen"
    if pd.notna(overlap):
        text += f"; the two directions have a cosine of {overlap:.2f}"
    return text


MEASURES = {  # as (words, decimals, factor)
    "edited": ("support rows that were edited", 0, 1),
    "relative_length": ("length of the edit / of the features", 2, 1),
    "cos_spurious_size": ("|cosine| with the spurious direction", 2, 1),
    "cos_class_size": ("|cosine| with the class direction", 2, 1),
    "random_size": ("the same of random directions", 2, 1),
    "pairs_spread": ("the same of differences within a group (root mean square)", 2, 1),
    "cos_away": ("cosine, away from the row's own attribute", 2, 1),
    "away": ("edits away from it (%)", 0, 100),
    "attribute_flips": ("nearest image changes its attribute (%)", 0, 100),
    "class_flips": ("nearest image changes its class (%)", 0, 100),
    "own_before": ("neighbors with the row's attribute, before (%)", 0, 100),
    "own_after": ("and after (%)", 0, 100),
    "probe_before": ("probability of the row's attribute, before (%)", 0, 100),
    "probe_after": ("and after (%)", 0, 100),
}


def edits_table(summary: pd.DataFrame, notes: Sequence[str]) -> TextTable:
    """A row per measure, a column per dataset and one per class of it."""
    columns = {"HSFM's edits": [words for words, _, _ in MEASURES.values()]}
    for row in summary.to_dict("records"):
        columns[row["dataset"] + (f": {row['class_name']}" if row["class_name"] else "")] = [
            "-" if pd.isna(row[measure]) else f"{factor * row[measure]:.{decimals}f}"
            for measure, (_, decimals, factor) in MEASURES.items()
        ]
    general = (
        "Means over the support rows that HSFM edited, of all runs and seeds, at the kept epoch.",
        "Spurious direction: the unit difference of the attributes' mean features within classes; class direction: of "
        "the classes' within attributes.",
    )
    title = "What HSFM's edits mean."
    return TextTable.of(pd.DataFrame(columns), notes=(*general, *notes), text_columns=1, title=title)

"""Tables of the analysis of support edits: data frames in, text out."""

from typing import Any

import numpy as np
import pandas as pd

from hsfm.core.text_tables import TextTable

OF_RUNS = ["probe_accuracy", "directions_cosine"]  # in the metadata of each run's edits


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, and one per class of it: means over all edits of all runs and seeds; null where unknown.

    rows: edits as `edits.measure` gives them, with columns dataset, run, class_name and OF_RUNS. Shares are fractions.
    Rows that were not edited count for their number alone. In a dataset's own row class_name is empty.
    """
    summaries = []
    for dataset, part in rows.groupby("dataset", sort=False):
        for name, own in [("", part), *part.groupby("class_name", sort=False)]:
            summaries.append({"dataset": dataset, "class_name": name, **_means(own)})
    return pd.DataFrame(summaries)


def _means(rows: pd.DataFrame) -> dict[str, Any]:
    edited = rows[rows["length"] > 0]
    away = edited["cos_away"].dropna() > 0
    as_they_are = [name for name in MEASURES if name in edited and name not in OF_RUNS]
    return {
        **{"runs": rows["run"].nunique(), "rows": len(rows), "edited": len(edited)},
        "cos_spurious_size": edited["cos_spurious"].abs().mean(),
        "cos_class_size": edited["cos_class"].abs().mean(),
        # mean size of a normal variable of that deviation
        "random_size": np.sqrt(2 / np.pi) * edited["random_spread"].mean(),
        "away": away.mean() if len(away) else np.nan,
        **edited[as_they_are].astype("Float64").mean(),
        **rows.drop_duplicates("run")[OF_RUNS].mean(),
    }


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
    "probe_accuracy": ("images whose attribute the probe tells (%)", 1, 100),
    "directions_cosine": ("cosine of the spurious with the class direction", 2, 1),
}


def edits_table(summary: pd.DataFrame) -> TextTable:
    """A row per measure, a column per dataset and one per class of it."""
    columns = {"HSFM's edits": [words for words, _, _ in MEASURES.values()]}
    for row in summary.to_dict("records"):
        columns[row["dataset"] + (f": {row['class_name']}" if row["class_name"] else "")] = [
            "-" if pd.isna(row[measure]) else f"{factor * row[measure]:.{decimals}f}"
            for measure, (_, decimals, factor) in MEASURES.items()
        ]
    notes = (
        "Means over the support rows that HSFM edited, of all runs and seeds, at the kept epoch.",
        "Spurious direction: the unit difference of the attributes' mean features within classes; class direction: of "
        "the classes' within attributes. Both, and the probe of the attribute, are of validation, or of train where "
        "validation shows one attribute.",
    )
    title = "What HSFM's edits mean."
    return TextTable.of(pd.DataFrame(columns), notes=notes, text_columns=1, title=title)

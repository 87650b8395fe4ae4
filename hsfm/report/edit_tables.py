"""Tables of the analysis of support edits: data frames in, text out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hsfm.core.text_tables import Cell, TextTable


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, and one per class of it: means over all edits of all runs and seeds; null where unknown.

    rows: edits as `edits.measure` gives them, with columns dataset, run and class_name. Shares are fractions. Rows
    that were not edited count for their number alone. In a dataset's own row class_name is empty.
    """
    summaries = []
    for dataset, part in rows.groupby("dataset", sort=False):
        summaries.append({"dataset": dataset, "class_name": "", **_means(part)})
        for name, own in part.groupby("class_name", sort=False):
            summaries.append({"dataset": dataset, "class_name": name, **_means(own)})
    return pd.DataFrame(summaries)


def _means(rows: pd.DataFrame) -> dict[str, Any]:
    edited = rows[rows["length"] > 0]
    return {
        "runs": rows["run"].nunique(),
        "rows": len(rows),
        "edited": len(edited),
        "relative_length": edited["relative_length"].mean(),
        "cos_spurious_size": edited["cos_spurious"].abs().mean(),
        "cos_class_size": edited["cos_class"].abs().mean(),
        # mean size of a normal variable of that deviation
        "random_size": np.sqrt(2 / np.pi) * edited["random_spread"].mean(),
        "pairs_spread": edited["pairs_spread"].mean(),
        "cos_away": edited["cos_away"].mean(),
        "away": _share(edited["cos_away"] > 0, edited["cos_away"]),
        "attribute_flips": edited["attribute_flips"].astype("Float64").mean(),
        "class_flips": edited["class_flips"].astype("Float64").mean(),
        **{name: edited[name].mean() for name in ("own_before", "own_after", "probe_before", "probe_after")},
    }


def _share(holds: pd.Series, of: pd.Series) -> float:
    return holds[of.notna()].mean() if of.notna().any() else np.nan


def direction_notes(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A note on the directions and the probe of each dataset. runs: what is said about its edits, run by run."""
    return [f"{dataset}: {_on_directions(of_runs)}." for dataset, of_runs in runs.items()]


def _on_directions(runs: Sequence[Mapping[str, Any]]) -> str:
    if not runs[0]["spurious"]:
        return "no two attributes are known within a class, so that there is no spurious direction"
    overlap, accuracy, ratio = (_known_mean(runs, k) for k in ("directions_cosine", "probe_accuracy", "contrast_ratio"))
    split = "" if runs[0]["directions_of"] == "val" else " of train, since validation shows one attribute,"
    text = "there are too few images for a probe"
    if accuracy is not None:
        text = f"the probe{split} tells the attribute of {100 * accuracy:.1f} % of images it has not seen"
    if overlap is not None:
        text += f"; the two directions have a cosine of {overlap:.2f}"
    if ratio is not None:
        text += f"; the attributes' means differ {ratio:.1f} times as much as shuffled ones' do"
    return text


def _known_mean(runs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [metadata[key] for metadata in runs if metadata[key] is not None]
    return sum(known) / len(known) if known else None


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
    rows = []
    for measure, (words, decimals, factor) in MEASURES.items():
        values = [factor * float(value) if pd.notna(value) else None for value in summary[measure]]
        cells = [Cell("-" if value is None else f"{value:.{decimals}f}") for value in values]
        rows.append((Cell(words), *cells))
    general = (
        "Means over the support rows that HSFM edited, of all runs and seeds, at the kept epoch.",
        "Spurious direction: the unit difference of the attributes' mean features within classes; class direction: of "
        "the classes' within attributes.",
    )
    names = [d if not c else f"{d}: {c}" for d, c in zip(summary["dataset"], summary["class_name"], strict=True)]
    header = ("HSFM's edits", *names)
    title = "What HSFM's edits mean."
    return TextTable(header=header, rows=tuple(rows), notes=(*general, *notes), text_columns=1, title=title)

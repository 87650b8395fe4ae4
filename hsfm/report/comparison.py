"""Comparison of our numbers with published ones: data frames in, a data frame and a table of text out."""

from collections.abc import Mapping

import pandas as pd

from hsfm.core.text_tables import TextTable, percent, signed
from hsfm.report.names import method_label
from hsfm.report.published import PUBLISHED, SOURCE
from hsfm.report.tables import files_of


def compare(aggregated: pd.DataFrame, scores: pd.DataFrame, sources: Mapping[str, str]) -> pd.DataFrame:
    """One row per dataset and method with published numbers: theirs, ours, and ours - theirs in points.

    aggregated: of `report.tables.aggregate`. sources: where the images of those datasets come from that have published
    numbers, by name. one_image: points that one image is of the smallest test group. Ours are null for a method that
    did not run.
    """
    rows = []
    for dataset, source in sources.items():
        test = scores[(scores["dataset"] == dataset) & (scores["split"] == "test") & (scores["n"] > 0)]
        smallest = test.groupby(["y", "attribute"], dropna=False)["n"].first().min()
        ours = aggregated[aggregated["dataset"] == dataset].set_index("method")
        ours = ours.reindex(list(PUBLISHED[source])).to_dict("index")
        for method, numbers in PUBLISHED[source].items():
            row = {"dataset": dataset, "images": source, "method": method}
            for place, metric in enumerate(("worst_group", "average")):
                theirs, deviation = numbers[2 * place : 2 * place + 2]
                mean, spread = (ours[method][f"{metric}_{name}"] for name in ("percent", "deviation"))
                row |= {f"{metric}_published": theirs, f"{metric}_published_deviation": deviation}
                row |= {f"{metric}_percent": mean, f"{metric}_deviation": spread}
                row[f"{metric}_difference"] = mean - theirs
            rows.append({**row, "one_image": 100 / smallest})
    return pd.DataFrame(rows)


def published_table(comparison: pd.DataFrame, scores: pd.DataFrame) -> TextTable:
    """The rows of `compare` for readers."""
    columns = [("Dataset", "dataset"), ("Method", lambda row: method_label(row["method"]))]
    for m, words in (("worst_group", "worst group"), ("average", "average")):
        theirs = (f"{m}_published", f"{m}_published_deviation")
        columns += [
            (f"{words}: published", lambda row, names=theirs: percent(*map(row.get, names))),
            ("ours", lambda row, m=m: percent(row[f"{m}_percent"], row[f"{m}_deviation"])),
            ("difference", lambda row, m=m: signed(row[f"{m}_difference"])),
        ]
    columns.append(("one image", lambda row: f"{row['one_image']:.2f}"))
    notes = (
        f"Published: {SOURCE}; its deviations are over seeds of a method on one checkpoint. Ours: test accuracy of "
        "this run in percent, - where the method did not run.",
        "Differences are in points. One image: the points that one image of the smallest test group is worth; "
        "differences of a few images, or within the intervals of the table uncertainty, cannot be read. Published "
        "numbers are of another backbone unless its checkpoint was given.",
    )
    made_from = files_of(scores, comparison[["dataset", "method"]])
    title = "Ours beside the published numbers."
    return TextTable.of(comparison, columns, notes=notes, made_from=made_from, title=title)

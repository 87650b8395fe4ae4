"""Comparison of our numbers with published ones: data frames in, a data frame and a table of text out."""

from collections.abc import Mapping

import pandas as pd

from hsfm.core.text_tables import TextTable, percent, signed
from hsfm.data.counts import beside_published
from hsfm.report.names import method_label
from hsfm.report.published import NOTES, PUBLISHED, QUOTED, QUOTED_ERM, SOURCE
from hsfm.report.tables import files_of

COLUMNS = ["dataset", "images", "method", "quoted", "one_image"]
COLUMNS += [
    f"{metric}_{name}"
    for metric in ("worst_group", "average")
    for name in ("published", "published_deviation", "percent", "deviation", "difference")
]


def unlike_published(scores: pd.DataFrame, sources: Mapping[str, str]) -> dict[str, str]:
    """By dataset how its images differ from the published ones, in words; nothing of one that has the same.

    sources: as for `compare`.
    """
    found = {}
    for dataset, source in sources.items():
        own = scores[(scores["dataset"] == dataset) & (scores["n"] > 0)]
        sizes = own.groupby(["split", own["group_name"].rename("group")])["n"].first()
        table = beside_published(source, sizes)
        other = table[table["expected"] != table["found"]]
        if len(other):
            (split, group), first = other.index[0], other.iloc[0]
            more = f", and {len(other) - 1} more groups" if len(other) > 1 else ""
            found[dataset] = f"{split}, {group} has {first['found']} images, published {first['expected']}{more}"
    return found


def compare(aggregated: pd.DataFrame, scores: pd.DataFrame, sources: Mapping[str, str]) -> pd.DataFrame:
    """One row per dataset and method with published numbers: theirs, ours, and ours - theirs in points.

    aggregated: of `report.tables.aggregate`. sources: where the images of those datasets come from that have published
    numbers, by name; those of other images than the published ones have no rows. one_image: points that one image is
    of the smallest test group. quoted: whether theirs look taken from a paper whose ERM is another one. Ours are null
    for a method that did not run.
    """
    rows, unlike = [], unlike_published(scores, sources)
    for dataset, source in sources.items():
        if dataset in unlike:
            continue
        test = scores[(scores["dataset"] == dataset) & (scores["split"] == "test") & (scores["n"] > 0)]
        smallest = test.groupby(["y", "attribute"], dropna=False)["n"].first().min()
        ours = aggregated[aggregated["dataset"] == dataset].set_index("method")
        ours = ours.reindex(list(PUBLISHED[source])).to_dict("index")
        for method, numbers in PUBLISHED[source].items():
            quoted = method in QUOTED.get(source, ())
            row = {"dataset": dataset, "images": source, "method": method, "quoted": quoted}
            for place, metric in enumerate(("worst_group", "average")):
                theirs, deviation = numbers[2 * place : 2 * place + 2]
                mean, spread = (ours[method][f"{metric}_{name}"] for name in ("percent", "deviation"))
                row |= {f"{metric}_published": theirs, f"{metric}_published_deviation": deviation}
                row |= {f"{metric}_percent": mean, f"{metric}_deviation": spread}
                row[f"{metric}_difference"] = mean - theirs
            rows.append({**row, "one_image": 100 / smallest})
    return pd.DataFrame(rows, columns=COLUMNS)


def published_table(comparison: pd.DataFrame, scores: pd.DataFrame, unlike: Mapping[str, str]) -> TextTable:
    """The rows of `compare` for readers. unlike: of `unlike_published`."""
    columns = [("Dataset", "dataset"), ("Method", lambda row: method_label(row["method"]))]
    for m, words in (("worst_group", "worst group"), ("average", "average")):
        theirs = (f"{m}_published", f"{m}_published_deviation")
        columns += [
            (
                f"{words}: published",
                lambda row, names=theirs: percent(*map(row.get, names)) + " (quoted)" * row["quoted"],
            ),
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
        *_quoted_note(comparison),
        *(
            f"{dataset}: {NOTES[images]}."
            for dataset, images in comparison[["dataset", "images"]].drop_duplicates().itertuples(index=False)
            if images in NOTES
        ),
        *(
            f"{dataset} is not set beside them, since its images are not the published ones: {how}."
            for dataset, how in unlike.items()
        ),
    )
    made_from = files_of(scores, comparison[["dataset", "method"]])
    title = "Ours beside the published numbers."
    return TextTable.of(comparison, columns, notes=notes, made_from=made_from, title=title, sectioned=True)


def _quoted_note(comparison: pd.DataFrame) -> list[str]:
    """A note on the rows that are of other checkpoints than the rest of their table, where there are some."""
    if not comparison["quoted"].any():
        return []
    images = dict.fromkeys(comparison["images"])
    erm = [(name, PUBLISHED[name]["erm"][0], QUOTED_ERM[name]) for name in images if name in QUOTED_ERM]
    known = "; ".join(f"{name}: {other} there, {own} here" for name, own, other in erm)
    return [
        "Quoted: published rows that equal those of DDB's paper (arXiv 2503.17226), so that they look taken over from "
        f"other checkpoints{f', of another ERM (worst group, {known})' if known else ''}. What they have above the "
        "published ERM is not what their method gained."
    ]

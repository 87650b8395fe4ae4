"""Data card: group sizes of a dataset and the association of its attribute with its class. Knows no torch."""

import pandas as pd

from hsfm.core.text import few
from hsfm.core.text_tables import TextTable
from hsfm.data.table import SPLITS, ImageTable, is_minority
from hsfm.report.tables import FEW


def count_groups(table: ImageTable) -> pd.DataFrame:
    """Images per group and split: columns class, attribute (`unknown` where it is), train, val, test, all."""
    rows, attributes = table.rows, [*table.attribute_names, "unknown"]
    counts = pd.crosstab([rows["y"], rows["attribute"].fillna(len(attributes) - 1)], rows["split"])
    counts = counts.reindex(columns=list(SPLITS), fill_value=0).rename_axis(columns=None).reset_index()
    counts.insert(0, "class", [table.class_names[int(y)] for y in counts.pop("y")])
    counts["attribute"] = [attributes[int(attribute)] for attribute in counts["attribute"]]
    return counts.assign(all=counts[list(SPLITS)].sum(axis=1))


def agreement(table: ImageTable) -> dict[str, float | None]:
    """Per split the share of majority images, those whose attribute is not rarer in their class than in all of train.

    None where the attribute of an image of the split or of train is unknown.
    """
    train = table.split("train")
    if train["attribute"].isna().any():
        return dict.fromkeys(SPLITS)
    count = pd.crosstab(train["y"], train["attribute"])
    rarer = is_minority(count.reindex(columns=range(len(table.attribute_names)), fill_value=0).to_numpy())
    shares: dict[str, float | None] = dict.fromkeys(SPLITS)
    for split in SPLITS:
        rows = table.split(split)
        if rows["attribute"].notna().all():
            shares[split] = float((~rarer[rows["y"].astype(int), rows["attribute"].astype(int)]).mean())
    return shares


def write_text(table: ImageTable, counts: pd.DataFrame) -> str:
    """The card as Markdown."""
    totals = counts[[*SPLITS, "all"]].sum()
    small = counts["test"].between(1, FEW - 1)
    marked = counts["test"].astype(str) + small.map({True: " (few)", False: ""})
    shown = pd.concat([counts.assign(test=marked), pd.DataFrame([{"class": "all", "attribute": "", **totals}])])
    shown["share of train (%)"] = (100 * shown["train"] / totals["train"]).map("{:.1f}".format)
    notes = ["How strong the spurious correlation is cannot be said: attributes of train are unknown."]
    if shares := {split: share for split, share in agreement(table).items() if share is not None}:
        text = ", ".join(f"{split} {100 * share:.1f} %" for split, share in shares.items())
        notes = [
            f"Agreement, the share of images whose attribute is not rarer in their class than in all of train: {text}.",
            *(f"The attribute of some {split} images is unknown." for split in SPLITS if split not in shares),
        ]
    if small.any():
        least = counts.loc[small, "test"].min()
        notes.append(
            f"Few: {small.sum()} of {len(counts)} groups have fewer than {FEW} test images, the smallest {least}, of "
            f"which one is {100 / least:.1f} points; read accuracies on them with their intervals only."
        )
    notes.append(f"Examples: ../figures/{table.dataset}/examples.png")
    classes, attributes = few(table.class_names, 50), few(table.attribute_names, 50) or "none known"
    sizes = f"{len(table.rows)} images, {len(table.class_names)} classes ({classes}), {len(table.attribute_names)} "
    shown = TextTable.of(shown, notes=tuple(notes)).markdown()
    return f"# {table.dataset}\n\n{sizes}attributes ({attributes}).\n\n{shown}"

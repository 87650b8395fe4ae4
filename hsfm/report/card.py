"""Data card: group sizes of a dataset and the association of its attribute with its class. Knows no torch."""

import pandas as pd

from hsfm.core.minority import is_minority
from hsfm.core.text_tables import escape
from hsfm.data.table import SPLITS, ImageTable


def count_groups(table: ImageTable) -> pd.DataFrame:
    """Images per group and split: columns class, attribute (`unknown` where it is), train, val, test, all."""
    rows = table.rows
    unknown = "unknown"
    while unknown in table.attribute_names:  # a label of that name
        unknown = f"({unknown})"
    names = pd.DataFrame(
        {
            "class": pd.Categorical.from_codes(rows["y"].astype(int), list(table.class_names)),
            "attribute": pd.Categorical.from_codes(
                rows["attribute"].fillna(len(table.attribute_names)).astype(int), [*table.attribute_names, unknown]
            ),
            "split": pd.Categorical(rows["split"], list(SPLITS)),
        }
    )
    counts = names.groupby(["class", "attribute", "split"], observed=False).size().unstack("split")
    counts = counts[counts.sum(axis=1) > 0].astype(int)
    counts["all"] = counts.sum(axis=1)
    return counts.rename_axis(columns=None).reset_index().astype({"class": str, "attribute": str})


def agreement(table: ImageTable) -> dict[str, float | None]:
    """Per split the share of majority images, those whose attribute is not rarer in their class than in all of train.

    None where the attribute of an image of the split or of train is unknown.
    """
    train = table.split("train")
    if train["attribute"].isna().any():
        return dict.fromkeys(SPLITS)
    count = pd.crosstab(train["y"], train["attribute"])
    count = count.reindex(columns=range(len(table.attribute_names)), fill_value=0)
    rarer = is_minority(count.to_numpy())
    shares: dict[str, float | None] = {}
    for split in SPLITS:
        rows = table.split(split)
        known = rows["attribute"].notna().all()
        shares[split] = float((~rarer[rows["y"].astype(int), rows["attribute"].astype(int)]).mean()) if known else None
    return shares


def write_text(table: ImageTable, counts: pd.DataFrame) -> str:
    """The card as Markdown."""
    rows = table.rows
    sizes = rows.groupby(["height", "width"]).size()
    largest = sizes.idxmax()
    lines = [
        f"# {table.dataset}",
        "",
        f"{len(rows)} images, {len(table.class_names)} classes ({', '.join(table.class_names)}), "
        f"{len(table.attribute_names)} attributes ({', '.join(table.attribute_names) or 'none known'}).",
        "",
        "| class | attribute | train | val | test | all | share of train (%) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    n_train = counts["train"].sum()
    for row in counts.to_dict("records"):
        share = 100 * row["train"] / n_train
        lines.append(
            f"| {escape(row['class'])} | {escape(row['attribute'])} | {row['train']} | {row['val']} | {row['test']} "
            f"| {row['all']} | {share:.1f} |"
        )
    totals = {split: int(counts[split].sum()) for split in (*SPLITS, "all")}
    lines.append(f"| all | | {totals['train']} | {totals['val']} | {totals['test']} | {totals['all']} | 100.0 |")
    lines += ["", *_agreement_lines(agreement(table)), ""]
    lines.append(
        f"Image size (height x width): {largest[0]} x {largest[1]} in {100 * sizes.max() / len(rows):.0f} % of the "
        f"images, {len(sizes)} different sizes, heights {rows['height'].min()} to {rows['height'].max()}, widths "
        f"{rows['width'].min()} to {rows['width'].max()}."
    )
    lines += ["", f"Examples: ../figures/{table.dataset}/examples.png"]
    return "\n".join(lines) + "\n"


def _agreement_lines(shares: dict[str, float | None]) -> list[str]:
    known = {split: share for split, share in shares.items() if share is not None}
    if not known:
        return ["How strong the spurious correlation is cannot be said: attributes of train are unknown."]
    text = ", ".join(f"{split} {100 * share:.1f} %" for split, share in known.items())
    return [
        f"Agreement, the share of images whose attribute is not rarer in their class than in all of train: {text}.",
        *(f"The attribute of some {split} images is unknown." for split in shares if split not in known),
    ]

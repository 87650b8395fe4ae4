"""Tables from scores: data frames in, data frames and tables of text out."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from hsfm.core.text_tables import Cell, TextTable, percent
from hsfm.evaluation.scores import HELD_OUT, value_scores
from hsfm.report.names import method_label

METRICS = {
    "worst_group": "worst group",
    "average": "average",
    "adjusted_average": "adjusted average",
    "worst_class": "worst class",
}
WORDS = {**METRICS, "worst_value": "worst value"}  # the last where there are several attributes
FEW = 50  # test images; the accuracy of a smaller group is never shown without its interval
MAIN_TITLE = "Test accuracy of every method."
GROUP_LABELS = {  # the most demanding use last
    "none": "no",
    "selection": "val, to select",
    "hints": "some of val, to train",
    "training": "val, to train",
    "train": "train, to train",
    "both": "train and val, to train",
}


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, run, method and seed: the four accuracies of the test split, as fractions.

    average: the plain mean over test images. worst_group: the lowest group accuracy; groups without test images are
    left out, and null where no group is known. adjusted_average: group accuracies weighted by the groups' shares of
    the training split; null where a test group has no training image or a training group is unknown. worst_class: the
    lowest class accuracy. worst_group_images, worst_class_images: images of the smallest test group and class.
    Groups of fewer test images than the scores' min_group do not count for worst_group. Of several attributes,
    worst_value: the lowest accuracy of a class with one value of one of them; with worst_value_images.
    """
    keys = ["dataset", "run", "method", "seed"]
    rows = [
        {**dict(zip(keys, key, strict=True)), "group_labels": part["group_labels"].iloc[0], **_accuracies(part)}
        for key, part in scores.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows)


def _accuracies(scores: pd.DataFrame) -> dict[str, float | None]:
    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    train = scores[(scores["split"] == "train") & (scores["n"] > 0)]
    classes = test.groupby("y")[["correct", "n"]].sum()
    groups_known = test["group"].notna().all()
    weights = train.set_index("group")["n"] if train["group"].notna().all() else pd.Series(dtype=float)
    adjustable = groups_known and test["group"].isin(weights.index).all() and len(test)
    share = test["group"].map(weights) if adjustable else None
    large = test[test["n"] >= test["min_group"].fillna(1)] if "min_group" in test else test
    values = value_scores(test)
    return {
        "average": test["correct"].sum() / test["n"].sum(),
        "worst_group": large["accuracy"].min() if groups_known else None,
        "adjusted_average": (test["accuracy"] * share).sum() / share.sum() if adjustable else None,
        "worst_class": (classes["correct"] / classes["n"]).min(),
        "worst_group_images": large["n"].min(),
        "worst_class_images": classes["n"].min(),
        **({"worst_value": values["accuracy"].min() if groups_known else None} if len(values) else {}),
        **({"worst_value_images": values["n"].min()} if len(values) else {}),
    }


def aggregate(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and method: mean and deviation of each accuracy, as `in_percent` has them; least images."""
    rows = []
    for (dataset, method), part in summary.groupby(["dataset", "method"], sort=False):
        # of the head that used them most: one that had nothing to train on is ERM's, which used none
        labels = max(part["group_labels"], key=list(GROUP_LABELS).index)
        row = {"dataset": dataset, "method": method, "group_labels": labels, "runs": part["run"].nunique()}
        row["seeds"] = part.groupby("run")["seed"].nunique().max()
        row |= part[[name for name in part if name.endswith("_images")]].min().to_dict()
        rows.append(row | in_percent(part, [name for name in WORDS if name in part]))
    return pd.DataFrame(rows)


def held_out(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and method that has such: worst group (or class, without groups) of held-out validation.

    Columns: dataset, method, held_out_percent, and held_out_error, its standard error over images of that group; both
    in percent. Several heads were asked about one image, which counts once for the error.
    """
    rows = []
    for (dataset, method), part in scores[scores["n"] > 0].groupby(["dataset", "method"], sort=False):
        asked, val = (part[part["split"] == split] for split in (HELD_OUT, "val"))
        by = "group" if val["group"].notna().all() else "y"
        images = val.drop_duplicates(["y", "attribute"]).groupby(by)["n"].sum()
        counts = asked.groupby(by)[["correct", "n"]].sum()
        if by == "group" and "min_group" in val:
            images = images[images >= val["min_group"].fillna(1).max()]
        accuracy = (counts["correct"] / counts["n"]).reindex(images.index).dropna()
        if len(accuracy):
            share = accuracy.min()
            error = (share * (1 - share) / images[accuracy.idxmin()]) ** 0.5
            rows.append((dataset, method, 100 * share, 100 * error))
    return pd.DataFrame(rows, columns=["dataset", "method", "held_out_percent", "held_out_error"])


def demands(aggregated: pd.DataFrame) -> pd.Series:
    """Of each row its method's most demanding use of group labels on any dataset, as a place in `GROUP_LABELS`."""
    uses = aggregated["group_labels"].map(list(GROUP_LABELS).index)
    return uses.groupby(aggregated["method"]).transform("max")


def blocks(aggregated: pd.DataFrame) -> pd.Series:
    """The block of each row: 0 without group labels, 1 with those of validation to select, 2 with some to train on."""
    return demands(aggregated).clip(upper=2)


def in_blocks(aggregated: pd.DataFrame) -> pd.DataFrame:
    """The rows by dataset, then by block."""
    order = pd.DataFrame({"dataset": pd.factorize(aggregated["dataset"])[0], "block": blocks(aggregated).to_numpy()})
    return aggregated.iloc[order.sort_values(["dataset", "block"], kind="stable").index].reset_index(drop=True)


def beginnings(*keys: pd.Series) -> tuple[int, ...]:
    """Places of the rows, the first one aside, at which a key is another than in the row before."""
    changed = pd.concat([key != key.shift() for key in keys], axis=1).any(axis=1)
    return tuple(place for place, change in enumerate(changed) if change and place)


def in_percent(part: pd.DataFrame, columns: Sequence[str]) -> dict[str, float]:
    """Mean and sample deviation (n - 1) of fractions, in percent, as `{column}_percent` and `{column}_deviation`.

    With one backbone run they are over its rows; with several over runs, each run the mean of its rows, since heads on
    one backbone are not independent of one another. Null where there is one value only.
    """
    values = part.groupby("run")[columns].mean() if len(part["run"].unique()) > 1 else part[columns]
    values = 100 * values.astype(float)
    found = {}
    for name in columns:
        found |= {f"{name}_percent": values[name].mean(), f"{name}_deviation": values[name].std(ddof=1)}
    return found


def group_table(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and test group: n of train, val and test, and each method's mean accuracy in percent.

    The mean is over all runs and seeds. Of several attributes, each class with one value of one of them has a row, too.
    """
    names = ["dataset", "group_name"]
    if len(values := value_scores(scores)):
        scores = pd.concat([scores, values], ignore_index=True)
    sizes = scores.groupby([*names, "split"], sort=False)["n"].first().unstack("split").fillna(0).astype(int)
    sizes = sizes[[split for split in ("train", "val", "test") if split in sizes]].add_prefix("n_")
    test = scores[scores["split"] == "test"]
    accuracy = 100 * test.groupby([*names, "method"], sort=False)["accuracy"].mean().unstack("method")
    accuracy = accuracy[list(dict.fromkeys(scores["method"]))]
    order = list(dict.fromkeys(zip(test["dataset"], test["group_name"], strict=True)))
    return sizes.join(accuracy.add_suffix("_percent")).reindex(order).rename_axis(names).reset_index()


def shown_metrics(aggregated: pd.DataFrame) -> list[str]:
    """The metrics of the main table; the worst value where there are several attributes."""
    several = "worst_value_percent" in aggregated and aggregated["worst_value_percent"].notna().any()
    return ["worst_group", *(["worst_value"] if several else []), "average"]


def main_table(aggregated: pd.DataFrame, scores: pd.DataFrame, left_out: pd.DataFrame) -> TextTable:
    """The paper's table: a row per method, worst group and average of each dataset.

    aggregated: of `in_blocks`, with the columns of `hsfm.report.uncertainty.measure`. scores: with a column `file`.
    left_out: dataset, method and reason of rows that are not there.
    """
    rows = aggregated[["method"]].assign(block=blocks(aggregated)).drop_duplicates("method")
    rows = rows.sort_values("block", kind="stable").reset_index(drop=True)
    used = aggregated.groupby("method")
    columns = {
        "Method": rows["method"].map(method_label),
        "Group labels": [_labels_used(used.get_group(method)) for method in rows["method"]],
    }
    for dataset, part in aggregated.groupby("dataset", sort=False):
        for metric in shown_metrics(part):
            cells = pd.Series(accuracy_cells(part, metric), part["method"])
            columns[f"{dataset}: {WORDS[metric]}"] = cells.reindex(rows["method"], fill_value=Cell("-")).tolist()
    notes = (*left_out_notes(left_out), *choice_notes(scores), *size_notes(scores))
    by_dataset = _by_dataset(aggregated, scores, shown_metrics(aggregated), notes, MAIN_TITLE)
    return TextTable.of(
        pd.DataFrame(columns),
        notes=by_dataset.notes,
        made_from=files_of(scores, rows[["method"]]),
        title=MAIN_TITLE,
        parted=beginnings(rows["block"]),
        page=by_dataset if len(aggregated["dataset"].unique()) > 1 else None,
    )


def metrics_table(aggregated: pd.DataFrame, scores: pd.DataFrame) -> TextTable:
    """Every accuracy, a row per dataset and method; of the same as `main_table`."""
    notes = (
        "Adjusted average: group accuracies weighted by the groups' shares of the training split; empty where a test "
        "group has no training image. Worst class: the lowest class accuracy, which needs no group labels.",
    )
    metrics = [name for name in WORDS if f"{name}_percent" in aggregated]
    return _by_dataset(aggregated, scores, metrics, notes, "Every accuracy of every method.")


def _by_dataset(
    aggregated: pd.DataFrame, scores: pd.DataFrame, metrics: Iterable[str], notes: tuple[str, ...], title: str
) -> TextTable:
    """A row per dataset and method. notes: after those that all tables of accuracies share."""
    names = {"Dataset": aggregated["dataset"], "Method": aggregated["method"].map(method_label)}
    labels = {"Group labels": aggregated["group_labels"].map(GROUP_LABELS)}
    cells = {WORDS[metric]: accuracy_cells(aggregated, metric) for metric in metrics}
    return TextTable.of(
        pd.DataFrame(names | labels | cells),
        notes=(*_notes(aggregated), *notes),
        text_columns=3,
        made_from=files_of(scores, aggregated[["dataset", "method"]]),
        title=title,
        parted=beginnings(aggregated["dataset"], blocks(aggregated)),
        sectioned=True,
    )


def files_of(results: pd.DataFrame, rows: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """For each row the files (column `file`) of the results that agree with all of it."""
    files = {key: tuple(own.unique()) for key, own in results.groupby(list(rows))["file"]}
    return tuple(files.get(key, ()) for key in rows.itertuples(index=False, name=None))


def groups_text(groups: pd.DataFrame, scores: pd.DataFrame) -> TextTable:
    """The table of `group_table` for readers."""
    columns = {"Dataset": groups["dataset"], "Group (class, attribute)": groups["group_name"]}
    for name in groups.columns[2:]:
        if name.startswith("n_"):
            few = groups[name].lt(FEW) & (groups[name] > 0) & (name == "n_test")
            columns[name.replace("n_", "n ")] = (
                groups[name].astype(str).where(~few, groups[name].astype(str) + " (few)")
            )
            continue
        known = groups[name].notna()
        # a method that a dataset was not given has no number for any of its groups
        empty = known.groupby(groups["dataset"]).transform("any").map({True: "no test image", False: "-"})
        columns[method_label(name.removesuffix("_percent"))] = groups[name].map("{:.1f}".format).where(known, empty)
    return TextTable.of(
        pd.DataFrame(columns),
        notes=(
            "Accuracy on the images of each test group in percent, the mean over all runs and seeds. Few: under "
            f"{FEW} test images, of which each is worth 2 points or more; the figure of the groups has the intervals.",
        ),
        made_from=files_of(scores, groups[["dataset"]]),
        title="Test accuracy on every group.",
        sectioned=True,
    )


def accuracy_cells(rows: pd.DataFrame, metric: str) -> list[Cell]:
    """A cell per row. Bold: among the best of its block. Underlined: among the best of all rows of its dataset.

    With its interval where it may be of fewer than FEW test images.
    """
    texts = [_with_interval(row, metric) for row in rows.to_dict("records")]
    marks = (rows[f"{metric}_best_of_block"], rows[f"{metric}_best"])
    return [Cell(*cell) for cell in zip(texts, *marks, strict=True)]


def _with_interval(row: dict, metric: str) -> str:
    text = percent(round(row[f"{metric}_percent"], 1), row[f"{metric}_deviation"])
    if text == "-" or not row.get(f"{metric}_images", FEW) < FEW:
        return text
    return f"{text} [{row[f'{metric}_low']:.0f} to {row[f'{metric}_high']:.0f}]"


def _few_note(aggregated: pd.DataFrame) -> list[str]:
    """A note on the intervals in cells, where there are some."""
    if not (aggregated["worst_group_images"] < FEW).any():
        return []
    return [
        f"In brackets: the 95 % interval over test images, of accuracies that may be of a group of fewer than {FEW}; "
        "read it before the number, and call no method best by the number alone."
    ]


def spread_note(summary: pd.DataFrame, repeated: str = "seeds", each: str = "head seed") -> str:
    """A note on the repetitions behind a table's deviations. repeated: the column that counts those on one backbone."""
    runs, seeds = summary["runs"].max(), summary[repeated].max()
    if runs > 1:
        within = f", each the mean of its {each}s (at most {seeds})" if seeds > 1 else ""
        return f"Mean ± sample standard deviation over {runs} backbone runs{within}."
    if seeds > 1:
        # of a method that has one head, such as ERM
        alone = "; a single head has none." if summary[repeated].min() == 1 else "."
        return f"Mean ± sample standard deviation over {seeds} {each}s on one backbone run{alone}"
    return f"One {each.removesuffix(' seed')} on one backbone run: no deviation."


def _notes(aggregated: pd.DataFrame) -> tuple[str, ...]:
    return (
        "Test accuracy in percent. Blocks: methods without group labels, with those of validation to select, with some "
        "to train on. Bold: best of its block, or the 95 % interval of the difference from that best includes 0 (table "
        "uncertainty). Underlined: the same among all methods.",
        spread_note(aggregated),
        "Worst group: the lowest accuracy of a (class, attribute) group. Average: the plain mean over test images.",
        "Group labels: of which split, and for what; a method that uses them differently by dataset stands in the "
        "block of its most demanding use.",
        *_few_note(aggregated),
        *_value_note(aggregated),
    )


def _value_note(aggregated: pd.DataFrame) -> list[str]:
    if "worst_value" not in shown_metrics(aggregated):
        return []
    return ["Worst value, of several attributes: the lowest accuracy of a class with one value of one attribute."]


def left_out_notes(left_out: pd.DataFrame) -> list[str]:
    """A note per dataset, method and reason."""
    return [f"{row.dataset}, {method_label(row.method)}: left out. {row.reason}." for row in left_out.itertuples()]


def _labels_used(aggregated: pd.DataFrame) -> str:
    """Uses of group labels by one method; by dataset where they differ."""
    used = dict(zip(aggregated["dataset"], aggregated["group_labels"].map(GROUP_LABELS), strict=True))
    if len(set(used.values())) == 1:
        return next(iter(used.values()))
    return "; ".join(f"{dataset}: {label}" for dataset, label in used.items())


def choice_notes(scores: pd.DataFrame, label: Callable[[str], str] = method_label) -> list[str]:
    """Notes on the rule that selected each head, and warnings about single heads. label: of a method, for readers."""
    rules = scores.groupby("method", sort=False)["chosen_by"].agg(lambda rules: " or ".join(rules.unique()))
    picked = "; ".join(f"{label(method)}: {rule}" for method, rule in rules.items())
    if len(rules) > 1 and (rules == rules.iloc[0]).all():
        picked = rules.iloc[0]
    notes = [f"What picked the head: {picked}."]
    heads = scores[scores["remark"] != ""].drop_duplicates(["dataset", "method", "run", "seed"])
    for (dataset, method, remark), part in heads.groupby(["dataset", "method", "remark"], sort=False):
        which = ", ".join(f"run {row.run} seed {row.seed}" for row in part.itertuples())
        notes.append(f"{dataset}, {label(method)}: {remark} ({which}).")
    return notes


def size_notes(scores: pd.DataFrame) -> list[str]:
    """The size of each dataset's smallest test group, and which groups are empty."""
    notes = []
    known = scores[(scores["split"] == "test") & scores["group"].notna()]
    for dataset, part in known.groupby("dataset", sort=False):
        sizes = part.groupby("group_name", sort=False)["n"].first()
        least, empty = sizes[sizes > 0].min(), sizes.index[sizes == 0]
        shown = "; ".join(empty[:10]) + (f"; ... ({len(empty)} in all)" if len(empty) > 10 else "")
        notes.append(
            f"{dataset}: the smallest test group ({sizes[sizes > 0].idxmin()}) has {least} images; one image is "
            f"{100 / least:.2f} points."
            + (" That is few: see the interval." if least < FEW else "")
            + (f" Without test images and left out: {shown}." if shown else "")
        )
        if "min_group" in part and (fewest := part["min_group"].max()) > 1:
            small = sizes.index[(sizes > 0) & (sizes < fewest)]
            said = "; ".join(small) or "none"
            notes.append(f"{dataset}: groups of fewer than {fewest:.0f} test images do not count as worst: {said}.")
    return notes

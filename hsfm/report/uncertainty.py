"""Bootstrap confidence intervals and paired comparisons."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from hsfm.core.bootstrap import RESAMPLES, difference_interval, lowest_interval, resample
from hsfm.core.text_tables import TextTable
from hsfm.evaluation.predictions import Predictions, check_same_images
from hsfm.report.names import method_label
from hsfm.report.tables import (
    FEW,
    GROUP_LABELS,
    WORDS,
    accuracy_cells,
    aggregate,
    beginnings,
    blocks,
    demands,
    files_of,
    left_out_notes,
    shown_metrics,
    spread_note,
    summarize,
)


def measure(predictions: Sequence[Predictions], scores: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per dataset and method: intervals of 95 % over test images for each metric of `tables`, in percent.

    Columns of each metric: `_low` and `_high`; `_to_erm`, `_to_best`, `_to_best_of_block` and `_to_best_without_train`,
    differences in points, paired on the same resamples, each with its own `_low` and `_high`: to ERM, to the best of
    all, to that of the own block (`hsfm.report.tables.blocks`), and to that of the methods without group labels of
    train (for one with them, of those with them). `_best`, `_best_of_block` and `_best_without_train` are true of a
    method that is this best, shows the same number, or differs from it by an interval that holds 0. Null, or false,
    where the metric is null. Intervals are of means over seeds and runs, as in `hsfm.report.tables.aggregate`, of these
    very heads.
    predictions: of every method and run that scores are of. Raises ValueError where one is of other images.
    """
    aggregated = aggregate(summarize(scores))
    among = {"best": 0, "best_of_block": blocks(aggregated), "best_without_train": demands(aggregated) > 3}
    aggregated = aggregated.assign(**among)
    rows = []
    for dataset, part in scores.groupby("dataset", sort=False):
        own = [p for p in predictions if p.dataset == dataset]
        found = {(p.run, p.method): p for p in own}
        for run, method in part[["run", "method"]].drop_duplicates().itertuples(index=False):
            check_same_images(own[0], found[run, method], f"predictions of {dataset}, run {run}, {method}")
        means = aggregated[aggregated["dataset"] == dataset].set_index("method")
        for method, row in _of_dataset(own, part, means, list(among), resamples).items():
            rows.append({"dataset": dataset, "method": method, "resamples": resamples, **row})
    return pd.DataFrame(rows)


def _of_dataset(
    predictions: Sequence[Predictions], scores: pd.DataFrame, means: pd.DataFrame, among: list[str], resamples: int
) -> dict[str, dict[str, float | bool]]:
    """By method the columns of `measure`. means: of `aggregate`. among: columns of it whose equal values are rivals."""
    heads = pd.DataFrame([(p.run, p.method) for p in predictions for _ in p.seeds], columns=["run", "method"])
    weights = {method: _weights(heads, method) for method in means.index}
    rows = {method: {} for method in weights}
    for metric, (parts, parts_drawn) in _draw(predictions, scores, resamples).items():
        observed, drawn = parts.min(0), parts_drawn.min(1)  # [h], [b h]
        value = pd.Series({method: observed @ own for method, own in weights.items()})
        shown = means[f"{metric}_percent"].round(1)
        for method, own in weights.items():
            row = dict(zip(("low", "high"), 100 * lowest_interval(parts_drawn, parts, own), strict=True))
            others = {name: value[means[name] == means.loc[method, name]].fillna(-1).idxmax() for name in among}
            for name, other in {**others, "erm": "erm"}.items():
                gap, low, high = _difference(observed, drawn, own - weights.get(other, np.nan))
                row |= {f"to_{name}": gap, f"to_{name}_low": low, f"to_{name}_high": high}
                if name in among:  # a rounding error is no difference
                    row[name] = bool(shown[method] == shown[other] or (low <= 1e-9 and high >= -1e-9))
            rows[method] |= {f"{metric}_{name}": found for name, found in row.items()}
    return rows


def _draw(
    predictions: Sequence[Predictions], scores: pd.DataFrame, resamples: int
) -> dict[str, tuple[Float[np.ndarray, "p h"], Float[np.ndarray, "b p h"]]]:
    """By metric, the lowest accuracy of some parts: accuracies of the parts, observed and in each resample.

    One part of NaN where the metric is not known.
    """
    one = predictions[0]
    n_attributes = one.attribute.max() + 2  # and the unknown one
    numbers = one.y * n_attributes + one.attribute + 1
    groups, sizes = np.unique(numbers, return_counts=True)
    correct = np.concatenate([p.correct for p in predictions], axis=1)
    observed = np.stack([correct[numbers == g].mean(0) for g in groups])
    drawn = resample(correct, numbers, resamples=resamples)
    classes = groups // n_attributes
    of_class = (classes == np.unique(classes)[:, None]) * sizes
    shares = {  # of the groups in the parts
        "average": sizes[None] / sizes.sum(),
        "adjusted_average": _training_shares(one, scores, groups),
        "worst_class": of_class / of_class.sum(1, keepdims=True),
    }
    of_value = _value_shares(scores, groups, sizes, int(n_attributes))
    if of_value is not None:
        shares["worst_value"] = of_value
    weighted = {metric: (of @ observed, np.einsum("pg,bgh->bph", of, drawn)) for metric, of in shares.items()}
    known = 1 if (one.attribute >= 0).all() else np.nan
    if "worst_value" in weighted:
        weighted["worst_value"] = tuple(of * known for of in weighted["worst_value"])
    large = sizes >= (scores["min_group"].max() if "min_group" in scores else 1)
    if large.any():
        observed, drawn = observed[large], drawn[:, large]
    else:
        known = np.nan
    return {"worst_group": (observed * known, drawn * known), **weighted}


def _value_shares(
    scores: pd.DataFrame, groups: Int[np.ndarray, " g"], sizes: Int[np.ndarray, " g"], n_attributes: int
) -> Float[np.ndarray, "p g"] | None:
    """Of the groups, y * n_attributes + attribute + 1, in each class with one value of one of several attributes."""
    if "values" not in scores:
        return None
    cells = scores.dropna(subset="attribute").drop_duplicates("attribute").set_index("attribute")["values"].dropna()
    values = {int(attribute): json.loads(text) for attribute, text in cells.items()}
    y, attribute = groups // n_attributes, groups % n_attributes - 1
    parts = [
        (y == label) & [values.get(a, {}).get(name) == value for a in attribute]
        for label in np.unique(y)
        for name in next(iter(values.values()), {})
        for value in dict.fromkeys(cell[name] for cell in values.values())
    ]
    members = np.array([part * sizes for part in parts if part.any()], dtype=float)
    return members / members.sum(1, keepdims=True) if len(members) else None


def _training_shares(one: Predictions, scores: pd.DataFrame, parts: np.ndarray) -> Float[np.ndarray, "1 g"]:
    """Of the test groups in the training split; NaN for all parts where an adjusted average is not defined."""
    train = scores[(scores["split"] == "train") & (scores["n"] > 0)]
    groups = np.unique(one.group)
    if (groups < 0).any() or train["group"].isna().any() or not set(groups) <= set(train["group"]):
        return np.full((1, len(parts)), np.nan)
    counts = train.groupby("group")["n"].first().reindex(groups).to_numpy(dtype=float)
    return counts[None] / counts.sum()


def _weights(heads: pd.DataFrame, method: str) -> Float[np.ndarray, " h"]:
    """Of every head in a method's mean: runs count alike, and in each its seeds."""
    own = heads["method"] == method
    in_run = heads.groupby(["run", "method"])["run"].transform("size")
    return np.where(own, 1 / (in_run * heads.loc[own, "run"].nunique()), 0.0)


def _difference(
    observed: Float[np.ndarray, " h"], drawn: Float[np.ndarray, "b h"], weights: Float[np.ndarray, " h"]
) -> tuple[float, float, float]:
    """The difference of two methods in points, and its interval; NaN where one of them is not known."""
    gap = float(observed @ weights)
    low, high = difference_interval(drawn @ weights, gap)
    return 100 * gap, 100 * low, 100 * high


def uncertainty_table(measured: pd.DataFrame, results: pd.DataFrame) -> TextTable:
    """A row per dataset and method: worst group and average with their intervals and differences.

    measured: rows of `tables.in_blocks` joined with those of `measure`. results: columns dataset, method and file.
    """
    # the intervals have columns of their own
    bare = measured.drop(columns=["worst_group_images", "worst_class_images"])
    rows = measured.assign(**{metric: accuracy_cells(bare, metric) for metric in ("worst_group", "average")})
    columns = [
        ("Dataset", "dataset"),
        ("Method", lambda row: method_label(row["method"])),
        ("worst group", "worst_group"),
        ("95 % interval", lambda row: _interval(row, "worst_group")),
        ("to the block's best", lambda row: _gap(row, "worst_group_to_best_of_block")),
        ("to the best", lambda row: _gap(row, "worst_group_to_best")),
        ("to ERM", lambda row: "-" if row["method"] == "erm" else _gap(row, "worst_group_to_erm")),
        ("average", "average"),
        ("95 % interval", lambda row: _interval(row, "average")),
        ("to the block's best", lambda row: _gap(row, "average_to_best_of_block")),
        ("to the best", lambda row: _gap(row, "average_to_best")),
    ]
    return TextTable.of(
        rows,
        columns,
        notes=_notes(measured),
        made_from=files_of(results, rows[["dataset", "method"]]),
        title="How sure the accuracies are, given these test images.",
        parted=beginnings(rows["dataset"], blocks(rows)),
        sectioned=True,
    )


def short_table(measured: pd.DataFrame, left_out: pd.DataFrame, *, best: str, best_of_all: str) -> TextTable:
    """A row per method of one dataset, narrow enough for a terminal: the worst group and the average, with intervals.

    Of the same as `uncertainty_table`; without known groups the worst class stands for the worst group. best,
    best_of_all: how the table shows the best of a block and of all, in words.
    """
    first = "worst_group" if measured["worst_group_percent"].notna().any() else "worst_class"
    columns = [
        ("Method", lambda row: method_label(row["method"])),
        ("Group labels", lambda row: GROUP_LABELS[row["group_labels"]]),
    ]
    metrics = [first if metric == "worst_group" else metric for metric in shown_metrics(measured)]
    for metric in metrics:
        columns += [(WORDS[metric], metric), ("95 % interval", lambda row, metric=metric: _interval(row, metric))]
    plain = measured[[name for name in measured if not name.endswith("_images")]]  # intervals have a column
    rows = measured.assign(**{metric: accuracy_cells(plain, metric) for metric in metrics})
    notes = (
        f"Test accuracy in percent. {spread_note(measured)} Intervals are over test rows. Blocks: without group "
        "labels, with those of validation to select, with some to train on.",
        f"{best}: best of its block, or not told apart from it by the test rows; {best_of_all}: the same among all.",
        *left_out_notes(left_out),
    )
    return TextTable.of(rows, columns, notes=notes, parted=beginnings(blocks(rows)))


def _notes(measured: pd.DataFrame) -> tuple[str, ...]:
    resamples = measured["resamples"].iloc[0]
    return (
        f"Intervals of 95 % over test images: {resamples} resamples, each drawn within the groups, which keep their "
        "sizes. They say how far a number would move with other test images; the heads stay the same, and what other "
        "seeds or backbones would change is in the deviations (±).",
        "To the best, to ERM: the difference in points with its interval, on the same resamples for both methods. "
        "Where the interval to the best holds 0, the test images do not tell the two apart, and both are underlined; "
        "where that to the best of the block does, of the methods that use group labels alike, both are bold. Each "
        "comparison is one of its own, without a correction for their number.",
        "Worst group: of the intervals of the single groups the lowest lower and the lowest upper end, since the "
        "lowest of several resampled accuracies is too low. A group that is all right or all wrong has no spread.",
        *(
            f"{row.dataset}: the smallest test group has {row.worst_group_images} images, fewer than {FEW}; read the "
            "interval before the number."
            for row in measured.drop_duplicates("dataset").itertuples()
            if row.worst_group_images < FEW
        ),
    )


def _interval(row: dict, metric: str) -> str:
    return "-" if pd.isna(row[f"{metric}_low"]) else f"{row[f'{metric}_low']:.1f} to {row[f'{metric}_high']:.1f}"


def _gap(row: dict, name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value) or value == low == high == 0:
        return "-"
    value, low, high = (round(number, 1) + 0.0 for number in (value, low, high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"

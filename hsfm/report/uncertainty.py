"""Bootstrap confidence intervals and paired comparisons."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from hsfm.core.text_tables import TextTable
from hsfm.evaluation.bootstrap import RESAMPLES, difference_interval, lowest_interval, resample
from hsfm.evaluation.predictions import Predictions, check_same_images
from hsfm.report.names import method_label
from hsfm.report.tables import accuracy_cells, aggregate, files_of, summarize


@dataclass(frozen=True)
class Draws:
    """One metric of all heads on a dataset, observed and in every resample: the lowest accuracy of some parts."""

    parts: Float[np.ndarray, "g h"]
    parts_drawn: Float[np.ndarray, "b g h"]

    @functools.cached_property
    def observed(self) -> Float[np.ndarray, " h"]:
        return self.parts.min(0)

    @functools.cached_property
    def drawn(self) -> Float[np.ndarray, "b h"]:
        return self.parts_drawn.min(1)


def measure(predictions: Sequence[Predictions], scores: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per dataset and method: intervals of 95 % over test images for each metric of `tables`, in percent.

    Columns of each metric: `_low` and `_high`; `_to_best` and `_to_erm`, the difference to the best method and to ERM
    in points, paired on the same resamples, each with its own `_low` and `_high`; `_best` and `_best_free`, whether the
    difference to the best method, and to the best of those without group labels in training, holds 0. Null where the
    metric is. Intervals are of means over seeds and runs, as in `hsfm.report.tables.aggregate`, of these very heads.
    predictions: of every method and run that scores are of. Raises ValueError where one is missing or of other images.
    """
    aggregated = aggregate(summarize(scores))
    rows = []
    for dataset, part in scores.groupby("dataset", sort=False):
        own = [p for p in predictions if p.dataset == dataset]
        _check(own, part, dataset)
        rows += _of_dataset(own, part, aggregated[aggregated["dataset"] == dataset], resamples)
    return pd.DataFrame(rows)


def _check(predictions: Sequence[Predictions], scores: pd.DataFrame, dataset: str) -> None:
    found = {(p.run, p.method): p for p in predictions}
    for run, method in scores[["run", "method"]].drop_duplicates().itertuples(index=False):
        if (run, method) not in found:
            raise ValueError(f"{dataset}, run {run}: no predictions of {method}, but scores")
        name = f"predictions of {dataset}, run {run}, {method}"
        check_same_images(predictions[0], found[run, method], name)


def _of_dataset(
    predictions: Sequence[Predictions], scores: pd.DataFrame, aggregated: pd.DataFrame, resamples: int
) -> list[dict]:
    heads = pd.DataFrame([(p.run, p.method) for p in predictions for _ in p.seeds], columns=["run", "method"])
    weights = {method: _weights(heads, method) for method in aggregated["method"]}
    free = set(aggregated.loc[aggregated["group_labels"] != "training", "method"])
    rows = {m: {"dataset": predictions[0].dataset, "method": m, "resamples": resamples} for m in weights}
    for metric, draws in _draw(predictions, scores, resamples).items():
        means = {m: float(draws.observed @ w) for m, w in weights.items()} if draws else {}
        best = max(means, key=means.get, default=None)
        best_free = max((m for m in means if m in free), key=means.get, default=None)
        for method, row in rows.items():
            own = weights[method]
            ends = 100 * lowest_interval(draws.parts_drawn, draws.parts, own) if draws else (np.nan, np.nan)
            to_best, to_erm = (_difference(draws, own, weights.get(other)) for other in (best, "erm"))
            to_free = _difference(draws, own, weights.get(best_free) if method in free else None)
            row |= zip((f"{metric}_low", f"{metric}_high"), ends, strict=True)
            for name, difference in (("best", to_best), ("erm", to_erm)):
                row |= {f"{metric}_to_{name}{end}": x for end, x in zip(("", "_low", "_high"), difference, strict=True)}
            row |= {f"{metric}_best": _holds_zero(*to_best), f"{metric}_best_free": _holds_zero(*to_free)}
    return list(rows.values())


def _draw(predictions: Sequence[Predictions], scores: pd.DataFrame, resamples: int) -> dict[str, Draws | None]:
    """Every metric of all heads; None where it is not known."""
    one = predictions[0]
    n_attributes = one.attribute.max() + 2  # and the unknown one
    numbers = one.y * n_attributes + one.attribute + 1
    groups, sizes = np.unique(numbers, return_counts=True)
    correct = np.concatenate([p.correct for p in predictions], axis=1)
    observed = np.stack([correct[numbers == g].mean(0) for g in groups])
    drawn = resample(correct, numbers, resamples=resamples)

    def weighted(shares: Float[np.ndarray, "p g"]) -> Draws:
        return Draws(shares @ observed, np.einsum("pg,bgh->bph", shares, drawn))

    classes = groups // n_attributes
    of_class = (classes == np.unique(classes)[:, None]) * sizes
    shares = _training_shares(one, scores)
    return {
        "worst_group": Draws(observed, drawn) if (one.attribute >= 0).all() else None,
        "average": weighted(sizes[None] / sizes.sum()),
        "adjusted_average": None if shares is None else weighted(shares[None]),
        "worst_class": weighted(of_class / of_class.sum(1, keepdims=True)),
    }


def _training_shares(one: Predictions, scores: pd.DataFrame) -> Float[np.ndarray, " g"] | None:
    """Of the test groups in the training split; None where an adjusted average is not defined."""
    train = scores[(scores["split"] == "train") & (scores["n"] > 0)]
    groups = np.unique(one.group)
    if (groups < 0).any() or train["group"].isna().any() or not set(groups) <= set(train["group"]):
        return None
    counts = train.groupby("group")["n"].first().reindex(groups).to_numpy(dtype=float)
    return counts / counts.sum()


def _weights(heads: pd.DataFrame, method: str) -> Float[np.ndarray, " h"]:
    """Of every head in a method's mean: runs count alike, and in each its seeds."""
    own = heads["method"] == method
    in_run = heads.groupby(["run", "method"])["run"].transform("size")
    return np.where(own, 1 / (in_run * heads.loc[own, "run"].nunique()), 0.0)


def _difference(
    draws: Draws | None, own: Float[np.ndarray, " h"], other: Float[np.ndarray, " h"] | None
) -> tuple[float, float, float]:
    """The difference of two methods in points, and its interval; NaN where one of them is not known."""
    if draws is None or other is None:
        return np.nan, np.nan, np.nan
    observed = float(draws.observed @ (own - other))
    low, high = difference_interval(draws.drawn @ (own - other), observed)
    return 100 * observed, 100 * low, 100 * high


def _holds_zero(_: float, low: float, high: float) -> bool:
    # a rounding error is no difference
    return bool(low <= 1e-9 and high >= -1e-9)


# Text -----------------------------------------------------------------------------------------------------------------


def uncertainty_table(measured: pd.DataFrame, results: pd.DataFrame) -> TextTable:
    """A row per dataset and method: worst group and average with their intervals and differences.

    measured: rows of `tables.aggregate` joined with those of `measure`. results: columns dataset, method and file.
    """
    parts = [part for _, part in measured.groupby("dataset", sort=False)]
    rows = pd.concat(parts)
    for metric in ("worst_group", "average"):
        rows[metric] = [cell for part in parts for cell in accuracy_cells(part, metric)]
    columns = [
        ("Dataset", "dataset"),
        ("Method", lambda row: method_label(row["method"])),
        ("worst group", "worst_group"),
        ("95 % interval", lambda row: _interval(row, "worst_group")),
        ("to the best", lambda row: _gap(row, "worst_group_to_best")),
        ("to ERM", lambda row: "-" if row["method"] == "erm" else _gap(row, "worst_group_to_erm")),
        ("average", "average"),
        ("95 % interval", lambda row: _interval(row, "average")),
        ("to the best", lambda row: _gap(row, "average_to_best")),
    ]
    sources = tuple(files_of(results, dataset=row.dataset, method=row.method) for row in rows.itertuples())
    title = "How sure the accuracies are, given these test images."
    return TextTable.of(rows, columns, notes=_notes(measured), made_from=sources, title=title)


def _notes(measured: pd.DataFrame) -> tuple[str, ...]:
    resamples = measured["resamples"].iloc[0]
    return (
        f"Intervals of 95 % over test images: {resamples} resamples, each drawn within the groups, which keep their "
        "sizes. They say how far a number would move with other test images; the heads stay the same, and what other "
        "seeds or backbones would change is in the deviations (±).",
        "To the best, to ERM: the difference in points with its interval, on the same resamples for both methods. "
        "Where the interval to the best holds 0, the test images do not tell the two apart, and both are bold; "
        "each comparison is one of its own, without a correction for their number.",
        "Worst group: of the intervals of the single groups the lowest lower and the lowest upper end, since the "
        "lowest of several resampled accuracies is too low. A group that is all right or all wrong has no spread.",
    )


def _interval(row: dict, metric: str) -> str:
    return "-" if pd.isna(row[f"{metric}_low"]) else f"{row[f'{metric}_low']:.1f} to {row[f'{metric}_high']:.1f}"


def _gap(row: dict, name: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(value) or value == low == high == 0:
        return "-"
    value, low, high = (round(number, 1) + 0.0 for number in (value, low, high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"

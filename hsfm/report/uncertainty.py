"""Bootstrap confidence intervals and paired comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from hsfm.core.text_tables import Cell, TextTable
from hsfm.evaluation.bootstrap import RESAMPLES, difference_interval, interval, lowest_interval, resample
from hsfm.evaluation.predictions import Predictions, check_same_images
from hsfm.report.names import method_label
from hsfm.report.tables import accuracy_column, aggregate, files_of, summarize


@dataclass(frozen=True)
class Draws:
    """One metric of all heads on a dataset, observed and in every resample."""

    observed: Float[np.ndarray, " h"]
    drawn: Float[np.ndarray, "b h"]
    # of a lowest accuracy, those that it is the lowest of
    parts: Float[np.ndarray, "g h"] | None = None
    parts_drawn: Float[np.ndarray, "b g h"] | None = None

    def interval(self, weights: Float[np.ndarray, " h"]) -> Float[np.ndarray, " 2"]:
        if self.parts is None:
            return interval(self.drawn @ weights)
        return lowest_interval(self.parts_drawn, self.parts, weights)


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
    metrics = _draw(predictions, scores, resamples)
    weights = {method: _weights(heads, method) for method in aggregated["method"]}
    free = set(aggregated.loc[aggregated["group_labels"] != "training", "method"])
    rows = {m: {"dataset": predictions[0].dataset, "method": m, "resamples": resamples} for m in weights}
    for metric, draws in metrics.items():
        means = {m: float(draws.observed @ w) for m, w in weights.items()} if draws else {}
        best = max(means, key=means.get) if means else None
        best_free = max((m for m in means if m in free), key=means.get, default=None)
        for method, row in rows.items():
            low, high = 100 * draws.interval(weights[method]) if draws else (np.nan, np.nan)
            row |= {f"{metric}_low": low, f"{metric}_high": high}
            for name, other in (("best", best), ("erm", "erm")):
                row |= _difference(draws, weights, method, other, f"{metric}_to_{name}")
            to_free = _difference(draws, weights, method, best_free, "") if method in free else {}
            row[f"{metric}_best"] = _holds_zero(row, f"{metric}_to_best")
            row[f"{metric}_best_free"] = _holds_zero(to_free, "")
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

    classes = groups // n_attributes
    of_class = (classes == np.unique(classes)[:, None]) * sizes
    of_class = of_class / of_class.sum(1, keepdims=True)  # [c g]
    known = (one.attribute >= 0).all()
    shares = _training_shares(one, scores)
    return {
        "worst_group": _lowest(observed, drawn) if known else None,
        "average": _mean(observed, drawn, sizes / sizes.sum()),
        "adjusted_average": None if shares is None else _mean(observed, drawn, shares),
        "worst_class": _lowest(of_class @ observed, np.einsum("cg,bgh->bch", of_class, drawn)),
    }


def _training_shares(one: Predictions, scores: pd.DataFrame) -> Float[np.ndarray, " g"] | None:
    """Of the test groups in the training split; None where an adjusted average is not defined."""
    train = scores[(scores["split"] == "train") & (scores["n"] > 0)]
    groups = np.unique(one.group)
    if (groups < 0).any() or train["group"].isna().any() or not set(groups) <= set(train["group"]):
        return None
    counts = train.groupby("group")["n"].first().reindex(groups).to_numpy(dtype=float)
    return counts / counts.sum()


def _lowest(parts: Float[np.ndarray, "g h"], drawn: Float[np.ndarray, "b g h"]) -> Draws:
    return Draws(parts.min(0), drawn.min(1), parts, drawn)


def _mean(parts: Float[np.ndarray, "g h"], drawn: Float[np.ndarray, "b g h"], shares: Float[np.ndarray, " g"]) -> Draws:
    return Draws(shares @ parts, np.einsum("g,bgh->bh", shares, drawn))


def _weights(heads: pd.DataFrame, method: str) -> Float[np.ndarray, " h"]:
    """Of every head in a method's mean: runs count alike, and in each its seeds."""
    own = heads["method"] == method
    in_run = heads.groupby(["run", "method"])["run"].transform("size")
    return np.where(own, 1 / (in_run * heads.loc[own, "run"].nunique()), 0.0)


def _difference(
    draws: Draws | None, weights: dict[str, np.ndarray], method: str, other: str | None, name: str
) -> dict[str, float]:
    if draws is None or other not in weights:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    gap = weights[method] - weights[other]
    observed = float(draws.observed @ gap)
    low, high = difference_interval(draws.drawn @ gap, observed)
    return {name: 100 * observed, f"{name}_low": 100 * low, f"{name}_high": 100 * high}


def _holds_zero(difference: dict, name: str) -> bool:
    # a rounding error is no difference
    return bool(difference.get(f"{name}_low", np.nan) <= 1e-9 and difference[f"{name}_high"] >= -1e-9)


# Text -----------------------------------------------------------------------------------------------------------------


def uncertainty_table(measured: pd.DataFrame, results: pd.DataFrame) -> TextTable:
    """A row per dataset and method: worst group and average with their intervals and differences.

    measured: rows of `tables.aggregate` joined with those of `measure`. results: columns dataset, method and file.
    """
    rows, sources = [], []
    for dataset, part in measured.groupby("dataset", sort=False):
        part = part.set_index("method")
        methods = list(part.index)
        worst, average = (accuracy_column(part, metric, methods) for metric in ("worst_group", "average"))
        for i, (method, row) in enumerate(part.iterrows()):
            rows.append(
                (
                    Cell(dataset),
                    Cell(method_label(method)),
                    worst[i],
                    _interval(row, "worst_group"),
                    _gap(row, "worst_group_to_best"),
                    _gap(row, "worst_group_to_erm", method == "erm"),
                    average[i],
                    _interval(row, "average"),
                    _gap(row, "average_to_best"),
                )
            )
            sources.append(files_of(results, dataset=dataset, method=method))
    header = (
        "Dataset", "Method", "worst group", "95 % interval", "to the best", "to ERM", "average", "95 % interval",
        "to the best",
    )  # fmt: skip
    title = "How sure the accuracies are, given these test images."
    return TextTable(header=header, rows=tuple(rows), notes=_notes(measured), made_from=tuple(sources), title=title)


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


def _interval(row: pd.Series, metric: str) -> Cell:
    if pd.isna(row[f"{metric}_low"]):
        return Cell("-")
    return Cell(f"{row[f'{metric}_low']:.1f} to {row[f'{metric}_high']:.1f}")


def _gap(row: pd.Series, name: str, itself: bool = False) -> Cell:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if itself or pd.isna(row[name]) or row[name] == low == high == 0:
        return Cell("-")
    value, low, high = (round(number, 1) + 0.0 for number in (row[name], low, high))
    return Cell(f"{value:+.1f} ({low:+.1f} to {high:+.1f})")

"""Measures beyond accuracy, of a method's heads on the test rows, with bootstrap intervals. Knows no torch.

Letters: n test rows, m validation rows, s heads (seeds) of a method, c classes, b resamples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hsfm.core.bootstrap import difference_interval

MEASURES = ("balanced_accuracy", "recall", "ece", "auroc")
BINS = 15  # of the calibration error, of equal width (Guo et al., ICML 2017)
RESAMPLES = 1000  # every row has a weight of its own, where accuracies have one per pattern of heads
_AT_ONCE = 4_000_000  # weights in memory
_TEMPERATURES = (-3.0, 3.0)  # logarithms between which one is looked for


def measure(
    logits: Mapping[str, tuple[Float[np.ndarray, "s n c"], Float[np.ndarray, "s m c"]]],
    y: Int[np.ndarray, " n"],
    y_val: Int[np.ndarray, " m"],
    group: Int[np.ndarray, " n"],
    *,
    class_names: Sequence[str],
    measures: Iterable[str] = MEASURES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per method: of each measure the mean over heads, in percent, and its interval of 95 %.

    logits: by method, of the test and of the validation rows. group: rows are drawn within it, as for accuracies; -1 is
    one, too. Columns `_percent`, `_deviation` (over heads; null for one), `_low` and `_high` of

    - balanced_accuracy: the mean of the recalls of all classes;
    - recall: of each class the share of its rows that are predicted so, as `recall_{class}`;
    - ece, ece_after: the expected calibration error, over bins of the predicted class's probability, before and after
      the logits are divided by the temperature of the lowest cross-entropy on validation, which those rows, where they
      taught the head, put too low;
    - auroc: of the second class's logit against the first's, for two classes.

    Intervals are percentiles of the draws; those of the calibration error, which is higher in a resample than in the
    sample, are joined with the same moved by that bias. Raises ValueError for an unknown measure, and for auroc of more
    than two classes.
    """
    wanted = check_measures(measures, class_names)
    draws = _Draws(group, resamples, seed)
    rows = []
    for method, (test, val) in logits.items():
        row = {"method": method}
        for name, of in _functions(test, y, val, y_val, class_names, wanted).items():
            observed, drawn = 100 * of(np.ones((1, len(y))))[0], 100 * draws.of(of).mean(1)
            ends = difference_interval(drawn, observed.mean()) if name.startswith("ece") else _interval(drawn)
            spread = observed.std(ddof=1) if len(observed) > 1 else np.nan
            found = dict(zip(("percent", "deviation", "low", "high"), (observed.mean(), spread, *ends), strict=True))
            row |= {f"{name}_{key}": float(value) for key, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def check_measures(measures: Iterable[str], class_names: Sequence[str]) -> list[str]:
    """Measures, each once; raises ValueError as `measure` does."""
    wanted = list(dict.fromkeys(measures))
    if unknown := [name for name in wanted if name not in MEASURES]:
        raise ValueError(f"measures: unknown {unknown[0]!r}; allowed are {', '.join(MEASURES)}")
    if "auroc" in wanted and len(class_names) != 2:
        raise ValueError(f"measures: auroc is for two classes, and there are {len(class_names)}")
    return wanted


Measure = Callable[[Float[np.ndarray, "b n"]], Float[np.ndarray, "b s"]]  # from weights of the test rows


def _functions(
    test: Float[np.ndarray, "s n c"],
    y: Int[np.ndarray, " n"],
    val: Float[np.ndarray, "s m c"],
    y_val: Int[np.ndarray, " m"],
    class_names: Sequence[str],
    wanted: Sequence[str],
) -> dict[str, Measure]:
    """The measures of one method by their names in the columns."""
    correct, found = test.argmax(-1) == y, {}
    one_class = [lambda w, c=c: recall(w, correct, y == c) for c in range(len(class_names))]
    if "balanced_accuracy" in wanted:
        there = [one_class[c] for c in np.unique(y)]
        found["balanced_accuracy"] = lambda w: np.mean([of(w) for of in there], axis=0)
    if "recall" in wanted:
        found |= {f"recall_{name}": of for name, of in zip(class_names, one_class, strict=True)}
    if "ece" in wanted:
        temperatures = np.array([temperature(head, y_val) for head in val])
        sure = softmax(test, axis=-1).max(-1)
        found["ece"] = lambda w: calibration_error(w, sure, correct)
        calm = softmax(test / temperatures[:, None, None], axis=-1).max(-1)
        found["ece_after"] = lambda w: calibration_error(w, calm, correct)
    if "auroc" in wanted:
        found["auroc"] = lambda w: auroc(w, test[..., 1] - test[..., 0], y == 1)
    return found


class _Draws:
    """Weights of the rows in every resample, drawn within groups: the same for all methods."""

    def __init__(self, group: Int[np.ndarray, " n"], resamples: int, seed: int):
        self._members = [np.flatnonzero(group == g) for g in np.unique(group)]
        self._n, self._resamples, self._seed = len(group), resamples, seed

    def of(self, measure: Measure) -> Float[np.ndarray, "b s"]:
        rng, size = np.random.default_rng(self._seed), max(1, _AT_ONCE // self._n)
        sizes = [min(size, self._resamples - start) for start in range(0, self._resamples, size)]
        return np.concatenate([measure(self._weights(rng, b)) for b in sizes])

    def _weights(self, rng: np.random.Generator, b: int) -> Float[np.ndarray, "b n"]:
        weights = np.zeros((b, self._n))
        for rows in self._members:
            weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=b)
        return weights


def recall(
    weights: Float[np.ndarray, "b n"], correct: Bool[np.ndarray, "s n"], members: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "b s"]:
    """The share of a class's rows that are right; NaN of a class without rows."""
    with np.errstate(invalid="ignore"):
        return (weights @ (correct & members).T) / (weights @ members)[:, None]


def calibration_error(
    weights: Float[np.ndarray, "b n"], confidence: Float[np.ndarray, "s n"], correct: Bool[np.ndarray, "s n"]
) -> Float[np.ndarray, "b s"]:
    """Expected calibration error: the distance of accuracy from mean confidence in each bin, weighted by its rows.

    With n_k of the n rows in bin k, n_k |accuracy_k - confidence_k| = |sum_{i in k} (correct_i - confidence_i)|.
    """
    gap, edges = correct - confidence, np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidence)[..., None] == np.arange(BINS)  # [s n k]
    sums = np.abs(np.einsum("bn,snk->bsk", weights, gap[..., None] * bins, optimize=True)).sum(-1)
    return sums / weights.sum(1, keepdims=True)


def auroc(
    weights: Float[np.ndarray, "b n"], score: Float[np.ndarray, "s n"], positive: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "b s"]:
    """Area under the ROC curve: how often a positive row scores above a negative one, ties half; NaN without either."""
    areas = []
    for of_head in score:
        order = np.argsort(of_head, kind="stable")
        first = np.flatnonzero(np.r_[True, np.diff(of_head[order]) > 0])  # of each run of equal scores
        here, others = (np.add.reduceat(weights[:, order] * of[order], first, axis=1) for of in (positive, ~positive))
        below = np.cumsum(others, axis=1) - others
        with np.errstate(invalid="ignore"):
            areas.append((here * (below + others / 2)).sum(1) / (here.sum(1) * others.sum(1)))
    return np.stack(areas, axis=1)


def temperature(logits: Float[np.ndarray, "m c"], y: Int[np.ndarray, " m"]) -> float:
    """The temperature whose quotient of the logits has the lowest cross-entropy, between e^-3 and e^3."""
    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        return -log_softmax(logits / np.exp(log_t), axis=-1)[rows, y].mean()

    return float(np.exp(minimize_scalar(loss, bounds=_TEMPERATURES, method="bounded").x))


def _interval(draws: Float[np.ndarray, " b"]) -> Float[np.ndarray, " 2"]:
    return np.nanquantile(draws, (0.025, 0.975)) if np.isfinite(draws).any() else np.full(2, np.nan)

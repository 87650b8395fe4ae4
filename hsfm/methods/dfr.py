"""DFR, deep feature reweighting, and its control LLR: logistic regression on the validation features.

DFR: Kirichenko et al., "Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations" (ICLR 2023).
LLR is the same without group labels: it has the supervision that HSFM has, so that a reader can tell how much of a gain
is the method and how much is the validation data.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from hsfm.core.progress import Progress
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, stack

log = logging.getLogger(__name__)


def fit_dfr(
    val: Embeddings,
    *,
    seeds: Sequence[int],
    grid: Sequence[float],
    fits: int,
    max_iter: int,
    progress: bool = True,
    chosen: list[float] | None = None,
) -> Head:
    """DFR heads `[s c d]` on raw features, one per seed.

    grid: inverse strengths C of the L1 penalty, tuned by worst-group accuracy. fits: regressions on fresh
    group-balanced subsamples of val whose coefficients are averaged. max_iter: of liblinear. progress: show a bar on a
    terminal. chosen: is given the C of every seed. Raises ValueError naming a group with fewer than two images, and
    where an attribute of val is unknown.
    """
    _check(seeds, grid, fits)
    val.refuse_test("DFR")
    val.require_attributes("DFR")
    for group, count in enumerate(torch.bincount(val.group, minlength=val.n_groups).tolist()):
        label, attribute = divmod(group, val.n_attributes)
        name = f"{val.class_names[label]}, {val.attribute_names[attribute]}"
        if count == 1:
            raise ValueError(f"DFR: group {name!r} has 1 image in {val.dataset} {val.split}; tuning C needs at least 2")
        if count == 0:
            log.warning("DFR: group '%s' has no image in %s %s and is left out", name, val.dataset, val.split)
    with Progress("DFR", len(seeds) * (len(grid) + fits), "regression", shown=progress) as bar:
        heads = []
        for seed in seeds:
            c, head = _fit_dfr(val, np.random.default_rng(seed), grid, fits, max_iter, bar.update)
            heads.append(head)
            if chosen is not None:
                chosen.append(c)
    return stack(heads)


def fit_llr(
    val: Embeddings,
    *,
    seeds: Sequence[int],
    grid: Sequence[float],
    max_iter: int,
    progress: bool = True,
    chosen: list[float] | None = None,
) -> Head:
    """LLR heads `[s c d]`: one regression on all of val, C tuned by worst-class accuracy; no group label is read.

    The seed shuffles only the halves that tune C, so heads of different seeds are equal where they agree on C.
    chosen: is given the C of every seed.
    """
    _check(seeds, grid, 1)
    val.refuse_test("LLR")
    x, y = val.features.numpy(), val.y.numpy()

    def fit(seed: int) -> Head:
        c = tune(x, y, y, np.random.default_rng(seed), grid, max_iter, balance=False, report=bar.update)
        scaler = StandardScaler().fit(x)
        head = _fold(*regress(scaler.transform(x), y, c, max_iter), scaler)
        if chosen is not None:
            chosen.append(c)
        bar.update()
        return head

    with Progress("LLR", len(seeds) * (len(grid) + 1), "regression", shown=progress) as bar:
        return stack([fit(seed) for seed in seeds])


def _fit_dfr(
    val: Embeddings,
    rng: np.random.Generator,
    grid: Sequence[float],
    fits: int,
    max_iter: int,
    report: Callable[[int], None],
) -> tuple[float, Head]:
    x, y, group = val.features.numpy(), val.y.numpy(), val.group.numpy()
    c = tune(x, y, group, rng, grid, max_iter, balance=True, report=report)
    # ASSUME: the scaler is fitted on validation features; the original repository fits it on train
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    coefficients, intercepts = [], []
    for _ in range(fits):
        rows = balanced_rows(group, rng)
        for fitted, of_all in zip(regress(scaled[rows], y[rows], c, max_iter), (coefficients, intercepts), strict=True):
            of_all.append(fitted)
        report(1)
    return c, _fold(np.mean(coefficients, axis=0), np.mean(intercepts, axis=0), scaler)


def tune(
    x: np.ndarray,
    y: np.ndarray,
    part: np.ndarray,
    rng: np.random.Generator,
    grid: Sequence[float],
    max_iter: int,
    *,
    balance: bool,
    report: Callable[[int], None] = lambda n: None,
) -> float:
    """The C of `grid` whose regression on half of the rows has the best worst-part accuracy on the other half.

    part `[n]`: groups, or classes. balance: cut the training half to its smallest part. The first of equals wins.
    report: is told of every regression.
    """
    fit_rows, evaluation_rows = halves(part, rng)
    if balance:
        fit_rows = fit_rows[balanced_rows(part[fit_rows], rng)]
    scaler = StandardScaler().fit(x[fit_rows])
    x_fit, x_evaluation = scaler.transform(x[fit_rows]), scaler.transform(x[evaluation_rows])

    def worst_part(c: float) -> float:
        coefficients, intercepts = regress(x_fit, y[fit_rows], c, max_iter)
        weight, bias = _as_rows(coefficients, intercepts)
        correct = (x_evaluation @ weight.T + bias).argmax(axis=1) == y[evaluation_rows]
        report(1)
        return min(correct[part[evaluation_rows] == p].mean() for p in np.unique(part))

    scores = [worst_part(c) for c in grid]
    best = grid[int(np.argmax(scores))]
    log.info("C = %g (worst %.1f %% on the judging half)", best, 100 * max(scores))
    return best


def halves(part: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train (the second half of a shuffle) and rows that evaluate (the first).

    ASSUME: where that leaves a part out of either half, the halves are stratified by part.
    """
    parts, counts = np.unique(part, return_counts=True)
    for p, count in zip(parts, counts, strict=True):
        if count < 2:
            raise ValueError(f"group or class {p} has {count} validation image; tuning C needs at least 2")
    order = rng.permutation(len(part))
    evaluation, fit = order[: len(part) // 2], order[len(part) // 2 :]
    if all(len(np.unique(part[rows])) == len(parts) for rows in (evaluation, fit)):
        return fit, evaluation
    evaluation, fit = train_test_split(
        order, test_size=0.5, stratify=part[order], random_state=int(rng.integers(2**31))
    )
    return fit, evaluation


def balanced_rows(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many random rows of each part as the smallest part has."""
    parts, counts = np.unique(part, return_counts=True)
    return np.concatenate([rng.permutation(np.flatnonzero(part == p))[: counts.min()] for p in parts])


def regress(x: np.ndarray, y: np.ndarray, c: float, max_iter: int) -> tuple[np.ndarray, np.ndarray]:
    """L1 logistic regression by liblinear: coefficients and intercepts, one row for two classes, else one per class.

    liblinear penalizes the intercept too. Its coordinate order is random; a fixed state makes equal rows give equal
    heads.
    """
    model = LogisticRegression(C=c, l1_ratio=1, solver="liblinear", max_iter=max_iter, random_state=0)
    if len(np.unique(y)) == 2:
        model.fit(x, y)
        return model.coef_, model.intercept_
    models = OneVsRestClassifier(model).fit(x, y).estimators_
    return np.concatenate([m.coef_ for m in models]), np.concatenate([m.intercept_ for m in models])


def _as_rows(coefficients: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row per class: a binary coefficient vector w becomes -w/2 and +w/2, whose softmax is the same."""
    if len(coefficients) > 1:
        return coefficients, intercepts
    return np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2


def _fold(coefficients: np.ndarray, intercepts: np.ndarray, scaler: StandardScaler) -> Head:
    """The head on raw features: w . (x - mean) / scale + b = (w / scale) . x + (b - (w / scale) . mean)."""
    weight, bias = _as_rows(coefficients, intercepts)
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    return Head(torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))


def _check(seeds: Sequence[int], grid: Sequence[float], fits: int) -> None:
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is empty or repeats a seed")
    if not grid or not all(0 < c < float("inf") for c in grid):
        raise ValueError(f"grid: {list(grid)} is empty or holds a C that is not a positive number")
    if fits < 1:
        raise ValueError(f"fits: {fits} is not a positive whole number")

"""L1 logistic regression on standardized features, and the choice of its penalty; scikit-learn loads when used."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor

from hsfm.features.embeddings import Embeddings, NotApplicable
from hsfm.features.standardize import fold, steadied
from hsfm.heads.head import Head, two_rows
from hsfm.heads.method_settings import Halves, MethodSettings
from hsfm.heads.scorer import Scorer

log = logging.getLogger(__name__)

MAX_ITER = 1000  # of liblinear

Strengths = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class L1Settings(MethodSettings):
    """Settings of every method that fits L1 logistic regressions on validation."""

    grid: Strengths = Field(
        (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        description="Inverse strengths C of the L1 penalty to choose from, on two halves of validation (DFR's code).",
    )

    @property
    def halves(self) -> Halves:
        return "class"


def tune(
    learned: Embeddings, val: Embeddings, held_out: Int[Tensor, " m"], *, settings: L1Settings, scorer: Scorer,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[float, Int[Tensor, " n"]]:  # fmt: skip
    """The first C of the grid whose regression on the rows of `learned` scores best on the held-out rows of val.

    And the classes that it predicts for val, -1 but for the held-out rows.
    """
    scaler = scaler_of(learned.features.numpy())
    x, held_out_x = (scaler.transform(part.numpy()) for part in (learned.features, val.features[held_out]))

    def tried(c: float) -> Float[Tensor, "m c"]:
        weight, bias = two_rows(*regress(x, learned.y.numpy(), c))
        report(1)
        return torch.from_numpy(held_out_x @ weight.T + bias)

    logits = torch.stack([tried(c) for c in settings.grid])
    scores = scorer(logits, held_out)
    best = int(scores.argmax())
    log.info("C = %g (%s %.1f %% on held-out rows)", settings.grid[best], scorer.in_words, 100 * float(scores[best]))
    return settings.grid[best], held_out_classes(logits[best], held_out, len(val.y))


def held_out_classes(logits: Float[Tensor, "m c"], rows: Int[Tensor, " m"], n: int) -> Int[Tensor, " n"]:
    """Predicted classes of these rows among n, -1 for all others."""
    return torch.full((n,), -1, dtype=torch.int16).index_copy(0, rows.cpu(), logits.argmax(-1).short().cpu())


def halves(part: Int[np.ndarray, " n"], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train (the second half of a shuffle) and rows that evaluate (the first).

    ASSUME: where that leaves a part out of either half, the halves are stratified by part. Raises NotApplicable where a
    part has one row.
    """
    parts, counts = np.unique(part, return_counts=True)
    if counts.min() < 2:
        raise NotApplicable(
            f"group or class {parts[counts.argmin()]} has 1 validation image; two halves need at least 2"
        )
    order = rng.permutation(len(part))
    evaluation, fit = order[: len(part) // 2], order[len(part) // 2 :]
    if all(len(np.unique(part[rows])) == len(parts) for rows in (evaluation, fit)):
        return fit, evaluation
    halved = [(rows[: len(rows) // 2], rows[len(rows) // 2 :]) for rows in (order[part[order] == p] for p in parts)]
    evaluation, fit = map(np.concatenate, zip(*halved, strict=True))
    return fit, evaluation


def balanced_rows(part: Int[np.ndarray, " n"], rng: np.random.Generator) -> np.ndarray:
    """As many random rows of each part as the smallest part has: those that come first in one shuffle of all.

    Where few rows change their part, few drawn ones change, so that heads on inferred and on true groups differ by what
    the inference gets wrong and not by the draw.
    """
    parts, counts = np.unique(part, return_counts=True)
    order = rng.permutation(len(part))
    return np.concatenate([order[part[order] == p][: counts.min()] for p in parts])


def regress(x: np.ndarray, y: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """L1 logistic regression by liblinear: coefficients and intercepts, one row for two classes, else one per class.

    liblinear penalizes the intercept too. Its coordinate order is random, and drawn from a fixed state here.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    model = LogisticRegression(C=c, l1_ratio=1, solver="liblinear", max_iter=MAX_ITER, random_state=0)
    if len(np.unique(y)) == 2:
        model.fit(x, y)
        return model.coef_, model.intercept_
    models = OneVsRestClassifier(model).fit(x, y).estimators_
    return np.concatenate([m.coef_ for m in models]), np.concatenate([m.intercept_ for m in models])


def scaler_of(x: Float[np.ndarray, "n d"]) -> Any:
    """scikit-learn's scaler, but for wild columns, see `hsfm.features.standardize.steadied`."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    scaler.scale_ = steadied(*map(torch.from_numpy, (scaler.scale_, x, scaler.mean_))).numpy()
    return scaler


def raw_head(coefficients: np.ndarray, intercepts: np.ndarray, scaler: Any) -> Head:
    """The head `[c d]` on raw features of a regression on scaled ones."""
    weight, bias = fold(*two_rows(coefficients, intercepts), scaler.mean_, scaler.scale_)
    return Head(torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))

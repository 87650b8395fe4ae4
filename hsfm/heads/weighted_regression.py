"""Logistic regression with weighted rows and an L2 penalty, on standardized features.

Letters: n rows, d features, c classes, k penalties.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat

from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, stack
from hsfm.heads.logistic_regression import raw_head, scaler_of
from hsfm.heads.method_settings import Halves, MethodSettings

Penalties = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class L2Settings(MethodSettings):
    """Settings of every method that fits L2 logistic regressions."""

    penalties: Penalties = Field(
        (0.1, 0.01, 0.001, 0.0001),
        description="Strengths of the L2 penalty to choose from, per unit of the mean loss; the best on validation "
        "rows that the head was not fitted to.",
    )

    @property
    def halves(self) -> Halves:
        return "class"


def regress(rows: Embeddings, weight: Float[np.ndarray, " n"], penalties: Sequence[float]) -> Head:
    """The heads `[k c d]` on raw features that minimize, one per penalty,

        sum_i w_i CE_i / sum_i w_i  +  penalty / 2 |W|^2

    over features standardized on these rows, without their weights; W is one row for two classes. By L-BFGS, each
    penalty from the solution of the one before. Every class needs a row.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = rows.features.numpy(), rows.y.numpy()
    scaler = scaler_of(x)
    x, weight = scaler.transform(x), weight * (len(weight) / weight.sum())
    model, heads = LogisticRegression(max_iter=1000, warm_start=True), []
    for penalty in penalties:
        model.set_params(C=1 / (penalty * len(y))).fit(x, y, sample_weight=weight)
        heads.append(raw_head(model.coef_, model.intercept_, scaler))
    return stack(heads)


def regress_candidates(
    candidates: Sequence[tuple[Hashable, float]], weighted: Callable[[Any], tuple[Embeddings, np.ndarray]]
) -> Head:
    """The heads `[k c d]` of k pairs of an option and a penalty, in their order; equal options lie together.

    weighted: rows to learn from and their weights by the option.
    """
    parts = []
    for option, pairs in groupby(candidates, itemgetter(0)):
        rows, weight = weighted(option)
        parts.append(regress(rows, weight, [penalty for _, penalty in pairs]))
    return Head(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def weigh(erm: Head, rows: Embeddings, gamma: float | int) -> Float[torch.Tensor, " n"]:
    """AFR's weights of rows, in all 1: exp(-gamma p) / n_y, with ERM's probability p of the class and its n_y rows."""
    p = erm.logits(rows.features).softmax(-1).gather(1, rows.y[:, None])[:, 0]
    weight = (-gamma * p).exp() / torch.bincount(rows.y, minlength=rows.n_classes)[rows.y]
    return weight / weight.sum()

"""EVaLS: the head retrained on the validation rows of each class that ERM's head fits best and worst.

Rows of low loss are mostly majority, those of high loss minority, so that as many of both are nearly balanced by group.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.held_out import fit_chosen
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import L2Settings, regress_candidates

LABEL = "EVaLS"
SOURCE = "Ghaznavi et al., Trained Models Tell Us How to Make Them Robust to Spurious Correlation, arXiv 2410.05345"


class Settings(L2Settings):
    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (10, 20, 50, 100, 200, 500),
        description="k, to choose from: rows per class of the lowest and of the highest losses; half of a class that "
        "has fewer.",
    )


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """EVaLS' heads `[s c d]`; train is not used. Raises ValueError for a class with a single row in val."""
    # ASSUME: k and the penalty are chosen by the configured scorer; the paper infers environments to choose by
    val.refuse_test(LABEL)

    def heads(rows: Embeddings, candidates: Sequence[tuple], rng: np.random.Generator) -> Head:
        loss = cross_entropy(erm.logits(rows.features), rows.y, reduction="none")

        def extremes(size: int) -> tuple[Embeddings, np.ndarray]:
            chosen = rows.take(extreme_rows(loss, rows.y, size))
            return chosen, np.ones(len(chosen.y))

        return regress_candidates(candidates, extremes)

    options, part = {"size": settings.sizes, "penalty": settings.penalties}, val.y.numpy()
    return fit_chosen(train, val, options, heads, on="val", part=part, seeds=seeds, scorer=scorer, called=LABEL)


def extreme_rows(loss: Float[Tensor, " n"], y: Int[Tensor, " n"], size: int) -> Int[Tensor, " k"]:
    """Rows of the `size` lowest and highest losses of each class, at most half of the class each; classes ascend."""
    chosen = []
    for members in ((y == label).nonzero().squeeze(1) for label in y.unique()):
        order = members[loss[members].argsort(stable=True)]
        k = min(size, max(len(order) // 2, 1))
        chosen.append(torch.cat([order[:k], order[-k:]]).unique() if len(order) > 1 else order)
    return torch.cat(chosen)

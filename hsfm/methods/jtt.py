"""JTT, just train twice: the head retrained on validation with the rows that ERM's head gets wrong weighted up.

The original trains the whole network a second time, on train. Here the head alone learns, and from rows that ERM has
not seen: a network that fits its training rows makes no error there.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat

from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.held_out import fit_chosen
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import L2Settings, regress_candidates

LABEL = "JTT"
SOURCE = "Liu et al., Just Train Twice: Improving Group Robustness without Training Group Information, ICML 2021"


class Settings(L2Settings):
    upweights: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        (2.0, 5.0, 20.0, 50.0), description="lambda_up, to choose from: how often an error of ERM's head counts."
    )


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """JTT's heads `[s c d]`; train is not used. Raises ValueError for a class with a single row in val."""
    val.refuse_test(LABEL)

    def heads(rows: Embeddings, candidates: Sequence[tuple], rng: np.random.Generator) -> Head:
        wrong = (erm.predict(rows.features) != rows.y).numpy()
        return regress_candidates(candidates, lambda upweight: (rows, np.where(wrong, upweight, 1.0)))

    options, part = {"upweight": settings.upweights, "penalty": settings.penalties}, val.y.numpy()
    return fit_chosen(train, val, options, heads, on="val", part=part, seeds=seeds, scorer=scorer, called=LABEL)

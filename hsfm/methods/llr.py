"""LLR, last-layer retraining: one logistic regression on all of validation, without group labels.

It has the supervision that HSFM has, so that a reader can tell how much of a gain is the method and how much is the
validation data.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field

from hsfm.core.progress import Progress
from hsfm.core.text import strengths
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.held_out import rows_to_learn
from hsfm.heads.logistic_regression import L1Settings, raw_head, regress, scaler_of, tune
from hsfm.heads.method_settings import Rule
from hsfm.heads.scorer import Scorer

LABEL = "LLR"
SOURCE = "the control of DFR in LaBonte et al., Towards Last-Layer Retraining for Group Robustness, NeurIPS 2023"
COLOR = "#56B4E9"
MARKER = "^"


class Settings(L1Settings):
    select_by: Rule | None = Field(
        "worst_class",
        description="Rule by which C is chosen; the worst class reads no group label. null takes the configuration's.",
    )


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """LLR's heads; train and erm are not used.

    The seed shuffles only the halves that tune C, so heads of different seeds are equal where they agree on C.
    """
    val.refuse_test("LLR")
    x, y = val.features.numpy(), val.y.numpy()
    scaler = scaler_of(x)
    scaled, chosen, predicted, fitted = scaler.transform(x), [], [], {}
    with Progress("LLR", len(seeds) * (len(settings.grid) + 1), "regression") as bar:
        for seed in seeds:
            half, held_out = rows_to_learn(train, val, "val", y, np.random.default_rng(seed))
            c, classes = tune(half, val, held_out, settings=settings, scorer=scorer, report=bar.update)
            if c not in fitted:
                fitted[c] = raw_head(*regress(scaled, y, c), scaler)
            chosen.append(c)
            predicted.append(classes)
            bar.update()
    by = f"C by the {scorer.in_words} of one half of validation"
    return Fit(
        stack([fitted[c] for c in chosen]), tuple(seeds), by, strengths(chosen),
        settings={"C": chosen}, held_out=torch.stack(predicted),
    )  # fmt: skip

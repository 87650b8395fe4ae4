"""L1 logistic regressions on subsamples that are balanced by group or class, averaged; DFR and class-balanced LLR."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, PositiveInt

from hsfm.core.progress import Progress
from hsfm.core.text import strengths
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import stack
from hsfm.heads.held_out import SCORED_ON, On, all_rows, rows_to_learn
from hsfm.heads.logistic_regression import L1Settings, balanced_rows, raw_head, regress, scaler_of, tune
from hsfm.heads.scorer import Scorer


class BalancedSettings(L1Settings):
    """Settings of every method that averages regressions on balanced subsamples."""

    fits: PositiveInt = Field(20, description="Regressions on balanced subsamples, which are averaged.")


def fit_balanced(
    train: Embeddings, val: Embeddings, part_of: Callable[[Embeddings], Int[np.ndarray, " n"]],
    *, on: On, settings: BalancedSettings, seeds: Sequence[int], scorer: Scorer, called: str,
) -> Fit:  # fmt: skip
    """Heads `[s c d]`, one per seed. part_of: the group or class of rows. on: split that the heads learn from.

    C is chosen by one regression each, on a balanced subsample of rows that exclude those it is scored on.
    Raises ValueError for a part of val with a single image.
    """
    rows = all_rows(train, val, on)
    # ASSUME: the scaler is fitted on the rows that teach; DFR's code fits it on train
    scaler, part = scaler_of(rows.features.numpy()), part_of(rows)
    scaled, y = scaler.transform(rows.features.numpy()), rows.y.numpy()
    chosen, heads, predicted = [], [], []
    with Progress(called, len(seeds) * (len(settings.grid) + settings.fits), "regression") as bar:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            learned, held_out = rows_to_learn(train, val, on, part_of(val), rng)
            learned = learned.take(torch.from_numpy(balanced_rows(part_of(learned), rng)))
            c, classes = tune(learned, val, held_out, settings=settings, scorer=scorer, report=bar.update)
            fits = []
            for _ in range(settings.fits):
                drawn = balanced_rows(part, rng)
                fits.append(regress(scaled[drawn], y[drawn], c))
                bar.update()
            weight, bias = (np.mean(part, axis=0) for part in zip(*fits, strict=True))
            heads.append(raw_head(weight, bias, scaler))
            chosen.append(c)
            predicted.append(classes)
    by = f"C by the {scorer.in_words} of {SCORED_ON[on]}"
    return Fit(
        stack(heads), tuple(seeds), by, strengths(chosen), settings={"C": chosen}, held_out=torch.stack(predicted)
    )

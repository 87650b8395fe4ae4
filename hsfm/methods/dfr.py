"""DFR, deep feature reweighting: logistic regression on group-balanced subsamples of validation, averaged."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveInt

from hsfm.core.progress import Progress
from hsfm.core.text import strengths
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.logistic_regression import L1Settings, balanced_rows, raw_head, regress, scaler_of, tune
from hsfm.heads.method_settings import Groups
from hsfm.heads.scorer import Scorer

LABEL = "DFR"
SOURCE = "Kirichenko et al., Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations, ICLR 2023"
COLOR = "#0072B2"
MARKER = "D"


class Settings(L1Settings):
    fits: PositiveInt = Field(20, description="Regressions on group-balanced subsamples, which are averaged.")

    @property
    def groups(self) -> Groups:
        return "val"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """DFR's heads, one per seed; train and erm are not used.

    Raises ValueError for a group with a single image, and where an attribute of val is unknown.
    """
    val.refuse_test("DFR")
    val.require_attributes("DFR")
    x, y, group = val.features.numpy(), val.y.numpy(), val.group.numpy()
    # ASSUME: the scaler is fitted on validation features; the original repository fits it on train
    scaler = scaler_of(x)
    scaled = scaler.transform(x)
    chosen, heads = [], []
    with Progress("DFR", len(seeds) * (len(settings.grid) + settings.fits), "regression") as bar:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            c = tune(x, y, group, rng, settings=settings, scorer=scorer, balance=True, report=bar.update)
            fits = []
            for _ in range(settings.fits):
                rows = balanced_rows(group, rng)
                fits.append(regress(scaled[rows], y[rows], c))
                bar.update()
            weight, bias = (np.mean(part, axis=0) for part in zip(*fits, strict=True))
            heads.append(raw_head(weight, bias, scaler))
            chosen.append(c)
    by = f"C by the {scorer.in_words} of one half of validation"
    return Fit(stack(heads), tuple(seeds), by, strengths(chosen), settings={"C": chosen})

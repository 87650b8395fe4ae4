"""DFR, deep feature reweighting: logistic regression on group-balanced subsamples of validation, averaged."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
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

log = logging.getLogger(__name__)


class Settings(L1Settings):
    fits: PositiveInt = Field(20, description="Regressions on group-balanced subsamples, which are averaged.")

    @property
    def groups(self) -> Groups:
        return "val"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """DFR's heads, one per seed; train and erm are not used.

    Raises ValueError naming a group with a single image, and where an attribute of val is unknown.
    """
    val.refuse_test("DFR")
    val.require_attributes("DFR")
    _check_groups(val)
    chosen, heads = [], []
    with Progress("DFR", len(seeds) * (len(settings.grid) + settings.fits), "regression") as bar:
        for seed in seeds:
            c, head = _fit(val, np.random.default_rng(seed), settings, scorer, bar.update)
            chosen.append(c)
            heads.append(head)
    by = f"C by the {scorer.in_words} of one half of validation"
    return Fit(stack(heads), tuple(seeds), by, strengths(chosen), settings={"C": chosen})


def _fit(
    val: Embeddings, rng: np.random.Generator, settings: Settings, scorer: Scorer, report: Callable[[int], None]
) -> tuple[float, Head]:
    x, y, group = val.features.numpy(), val.y.numpy(), val.group.numpy()
    c = tune(x, y, group, rng, settings=settings, scorer=scorer, balance=True, report=report)
    # ASSUME: the scaler is fitted on validation features; the original repository fits it on train
    scaler = scaler_of(x)
    scaled = scaler.transform(x)
    fits = []
    for _ in range(settings.fits):
        rows = balanced_rows(group, rng)
        fits.append(regress(scaled[rows], y[rows], c))
        report(1)
    return c, raw_head(*(np.mean(part, axis=0) for part in zip(*fits, strict=True)), scaler)


def _check_groups(val: Embeddings) -> None:
    """Warn of groups without an image; a group with one alone cannot be halved."""
    for group, count in enumerate(torch.bincount(val.group, minlength=val.n_groups).tolist()):
        label, attribute = divmod(group, val.n_attributes)
        name = f"{val.class_names[label]}, {val.attribute_names[attribute]}"
        if count == 1:
            raise ValueError(f"DFR: group {name!r} has 1 image in {val.dataset} {val.split}; tuning C needs at least 2")
        if count == 0:
            log.warning("DFR: group '%s' has no image in %s %s and is left out", name, val.dataset, val.split)

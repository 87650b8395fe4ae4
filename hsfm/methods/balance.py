"""Balancing: the head retrained on rows that are subsampled or reweighted so that classes, or groups, count alike.

SUBY and SUBG subsample by class and by group, RWY and RWG reweight; the original trains the whole network.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.held_out import fit_chosen
from hsfm.heads.logistic_regression import balanced_rows
from hsfm.heads.method_settings import Groups, Halves
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import L2Settings, regress

LABEL = "Balance"
SOURCE = "Idrissi et al., Simple Data Balancing Achieves Competitive Worst-Group-Accuracy, CLeaR 2022"


class Settings(L2Settings):
    by: Literal["class", "group"] = Field("group", description="Balance classes, or groups, which reads their labels.")
    how: Literal["subsample", "reweight"] = Field(
        "reweight", description="Draw as many rows of each as the smallest has, or weight rows by 1 / n of theirs."
    )
    on: Literal["val", "train"] = Field("val", description="Split that the head learns from.")

    @property
    def groups(self) -> Groups:
        return self.on if self.by == "group" else "none"

    @property
    def halves(self) -> Halves:
        return "none" if self.on == "train" else self.by


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """Balanced heads `[s c d]`; ERM's is not used. On val, the penalty is chosen on a half that did not teach.

    Raises ValueError for a group or class with a single row in val, and where a group label that it needs is unknown.
    """
    learned = {"val": val, "train": train}[settings.on]
    for split in (train, val):
        split.refuse_test(LABEL)
    if settings.by == "group":
        learned.require_attributes(LABEL)

    def part_of(rows: Embeddings) -> np.ndarray:
        return (rows.group if settings.by == "group" else rows.y).numpy()

    def heads(rows: Embeddings, candidates: Sequence[tuple], rng: np.random.Generator) -> Head:
        penalties = [penalty for (penalty,) in candidates]
        part = part_of(rows)
        if settings.how == "subsample":
            drawn = rows.take(torch.from_numpy(balanced_rows(part, rng)))
            return regress(drawn, np.ones(len(drawn.y)), penalties)
        return regress(rows, 1 / np.bincount(part)[part], penalties)

    return fit_chosen(
        train, val, {"penalty": settings.penalties}, heads,
        on=settings.on, part=part_of(val) if settings.on == "val" else val.y.numpy(), seeds=seeds, scorer=scorer,
        called=LABEL, draws=settings.how == "subsample",
    )  # fmt: skip

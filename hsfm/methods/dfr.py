"""DFR, deep feature reweighting: logistic regression on group-balanced subsamples of validation, averaged."""

from collections.abc import Sequence

from pydantic import Field

from hsfm.features.embeddings import Embeddings
from hsfm.heads.balanced_regression import BalancedSettings, fit_balanced
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.held_out import On
from hsfm.heads.method_settings import Groups, Halves
from hsfm.heads.scorer import Scorer

LABEL = "DFR"
SOURCE = "Kirichenko et al., Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations, ICLR 2023"
COLOR = "#0072B2"
MARKER = "D"


class Settings(BalancedSettings):
    on: On = Field("val", description="Splits that the head learns from, and whose group labels it reads.")

    @property
    def groups(self) -> Groups:
        return self.on

    @property
    def halves(self) -> Halves:
        return "none" if self.on == "train" else "group"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """DFR's heads, one per seed; erm is not used.

    Raises ValueError for a group with a single image in val, and where an attribute that it needs is unknown.
    """
    for name, split in (("train", train), ("val", val)):
        split.refuse_test(LABEL)
        if settings.on in (name, "both"):
            split.require_attributes(LABEL)
    return fit_balanced(
        train, val, lambda rows: rows.group.numpy(),
        on=settings.on, settings=settings, seeds=seeds, scorer=scorer, called=LABEL,
    )  # fmt: skip

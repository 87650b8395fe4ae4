"""Class-balanced LLR: logistic regression on class-balanced subsamples of validation, averaged; DFR without groups.

HSFM's support and hard set are balanced by class, so this, not LLR, is the control that has its supervision where
classes are not of one size.
"""

from collections.abc import Sequence

from pydantic import Field

from hsfm.features.embeddings import Embeddings
from hsfm.heads.balanced_regression import BalancedSettings, fit_balanced
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.method_settings import Rule
from hsfm.heads.scorer import Scorer

LABEL = "CB-LLR"
SOURCE = "Hill et al., arXiv 2512.01766; LaBonte et al., NeurIPS 2023"
COLOR = "#000000"
MARKER = ">"


class Settings(BalancedSettings):
    select_by: Rule | None = Field(
        "worst_class",
        description="Rule by which C is chosen; the worst class reads no group label. null takes the configuration's.",
    )


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """Its heads, one per seed; train and erm are not used. Raises ValueError for a class with one image in val."""
    val.refuse_test(LABEL)
    return fit_balanced(
        train, val, lambda rows: rows.y.numpy(),
        on="val", settings=settings, seeds=seeds, scorer=scorer, called=LABEL,
    )  # fmt: skip

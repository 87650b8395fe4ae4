"""The ERM head of a frozen backbone."""

import logging
import warnings

import torch
from pydantic import Field, PositiveFloat

from hsfm.core.naming import naming
from hsfm.core.settings import FrozenSettings
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, SavedHeads, two_rows

log = logging.getLogger(__name__)

# Gradient at which L-BFGS ends. scikit-learn's 1e-4 leaves weights 2 to 20 % away from the optimum, this one 1e-5.
TOLERANCE = 1e-8
MAX_ITER = 1000  # of L-BFGS; where it ends before it has converged, the log says so


class ERMHeadSettings(FrozenSettings):
    """ERM's head where no network was trained."""

    C: PositiveFloat = Field(
        0.1,
        description="Inverse strength of the L2 penalty: the lowest cross-entropy on held-out training images "
        "(fivefold; EfficientNet-Lite0 on minibirds, standardized to 0.5), a choice without group labels.",
    )


def fit_head(train: Embeddings, settings: ERMHeadSettings = ERMHeadSettings()) -> Head:  # noqa: B008, frozen
    """The head `[1 c d]` that minimizes the training loss, by logistic regression on the training features.

    That loss is the sum of all images' cross-entropy plus |weight|^2 / (2 C), the intercepts free, minimized by L-BFGS
    from zero. Raises ValueError for the test split.
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.linear_model import LogisticRegression

    train.refuse_test("the ERM head")
    model = LogisticRegression(C=settings.C, tol=TOLERANCE, max_iter=MAX_ITER)
    with warnings.catch_warnings(), naming(train.where):
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in the log
        model.fit(train.features.double().cpu().numpy(), train.y.cpu().numpy())
    if model.n_iter_.max() >= MAX_ITER:
        log.warning("ERM head: not converged after %d iterations; standardize the features or lower C", MAX_ITER)
    weight, bias = map(torch.tensor, two_rows(model.coef_, model.intercept_))
    return Head(weight.float()[None], bias.float()[None])


def erm_row(train: Embeddings, settings: ERMHeadSettings, run: int) -> SavedHeads:
    """ERM's row of the tables where no network was trained: the head of `fit_head` as it is saved."""
    return SavedHeads(
        head=fit_head(train, settings),
        method="erm",
        seeds=(run,),
        class_names=train.class_names,
        checkpoint_sha256=train.checkpoint_sha256,
        group_labels="none",
        chosen_by="logistic regression on frozen features, nothing chosen",
        settings=settings.model_dump(mode="json"),
    )

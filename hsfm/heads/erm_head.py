"""The ERM head of a frozen backbone."""

import logging
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head

log = logging.getLogger(__name__)

# Gradient at which L-BFGS ends. scikit-learn's 1e-4 leaves weights 2 to 20 % away from the optimum, this one 1e-5.
TOLERANCE = 1e-8


def fit_head(train: Embeddings, *, c: float = 0.1, max_iter: int = 1000) -> Head:
    """The head `[1 c d]` that minimizes the training loss, by logistic regression on the training features.

    This is empirical risk minimization over the head only, where fine-tuning goes over the whole network: the sum of
    all images' cross-entropy plus |weight|^2 / (2 C), the intercepts free. It is one convex problem, solved by L-BFGS
    from zero; no random number is drawn and no attribute read, so that every run has the same head.

    c: C. The default has the lowest cross-entropy on held-out training images (fivefold; EfficientNet-Lite0 on
    minibirds, standardized to 0.5), as one would choose who has no group labels. max_iter: of L-BFGS; where it ends
    before it has converged, the log says so. Raises ValueError for the test split, for a class without image, and for a
    C not above 0.
    """
    train.refuse_test("the ERM head")
    if not 0 < c < float("inf"):
        raise ValueError(f"erm_head: C {c} is not a positive number")
    for y, count in enumerate(torch.bincount(train.y, minlength=train.n_classes).tolist()):
        if count == 0:
            raise ValueError(f"erm_head: class {y} ({train.class_names[y]}) has no training image")
    model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=max_iter)
    # one call of scikit-learn, which does not say how far it has come
    log.info("fitting a head on %d images of %d features", *train.features.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in the log
        model.fit(train.features.double().cpu().numpy(), train.y.cpu().numpy())
    if model.n_iter_.max() >= max_iter:
        log.warning("ERM head: not converged after %d iterations; standardise the features or lower C", max_iter)
    weight, bias = torch.tensor(model.coef_), torch.tensor(model.intercept_)
    if train.n_classes == 2:  # one row w; -w/2 and +w/2 have the same softmax
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return Head(weight.float()[None], bias.float()[None])

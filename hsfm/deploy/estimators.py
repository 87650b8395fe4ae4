"""HSFM as a scikit-learn classifier: a feature matrix in, a linear head out.

Source: arXiv 2603.29313. Letters: n rows, d columns of X, c classes.
"""

import inspect
import textwrap
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from hsfm.core.device import choose_device
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.features.standardize import fold
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.head import Head, two_rows
from hsfm.heads.supervision import scorer_of
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.train import MetaResult
from hsfm.methods.hsfm.train import train as meta_train

AUTO_LR = 0.064  # times 1 / d: a step of size alpha moves a standardized row's logits by about alpha d, for any d
MOST_LR = 0.01
SETTINGS = {name: value for name, value in Settings() if name not in ("inner_lr", "select_by")}  # by their own names
PARAMETERS = {
    "inner_lr": "auto",
    **HardSetSettings().model_dump(),
    "select_by": None,
    **SETTINGS,
    "head": None,
    "C": 1.0,
    "validation_fraction": 0.2,
    "standardize": True,
    "random_state": None,
    "device": "auto",
}
HISTORY = ["epoch", "outer_loss", "hard_loss", "val_average", "val_worst_group", "val_worst_class", "kept"]


class HSFMClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier made robust to spurious correlations by hard-set-guided feature-space meta-learning (HSFM).

    From a linear head, by default a logistic regression on X, HSFM learns edits of a few training rows (the support)
    such that the head, adapted on the edited rows, does well on the validation rows that it finds hardest. The result
    is an ordinary linear head. X holds features, usually of a frozen network. Source: arXiv 2603.29313.

    HSFM helps as far as the validation rows show what X and y lack: give `fit` an X_val in which minority groups are
    not rare, of images that the network has not seen. Without X_val a share of X is held out, which is as biased as X
    and fitted already by a network trained on X: then the head hardly moves, and may even get worse. HSFM trains on
    the validation rows, so `history_` flatters the head; evaluate it on other rows.

    Parameters (all by name)
    ------------------------
    inner_lr : step size of the head (alpha). "auto" is 0.064 / d, at most 0.01: 0.0005 at d = 128, the paper's 0.00005
        at d = 1280. It suits columns whose spread is of the order of 1.
    hard_per_class : hard validation rows per class; keep it at or below the number of minority rows of a class.
    select_by : what picks the epoch on the validation rows: "worst_group" or "worst_class" accuracy, "average", or
        "hard_loss". None is "worst_group" where groups_val is given, else "worst_class".
    {settings}
    head : a linear head on X to start from, instead of a logistic regression: an `hsfm.Head` or a pair (weight [c d],
        bias [c]), rows in the order of `classes_`, that is of the sorted labels. For two classes (weight [1 d],
        bias [1]) will do too, so that a fitted linear classifier is `head=(model.coef_, model.intercept_)`.
    C : inverse strength of the L2 penalty of the logistic regression.
    validation_fraction : share of each class of X that is held out where X_val is not given, at least one row.
    standardize : bring the columns to mean 0 and standard deviation 1 on the training rows (a constant column to 0).
        Only training happens in that space: head, coef_ and intercept_ are for X as it was given.
    random_state : draws the support and the held-out rows. An int is the seed of `hsfm.meta.train` itself and makes
        equal calls give equal bytes on one machine; None and a RandomState draw a seed anew for each fit.
    device : "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...

    Attributes
    ----------
    classes_ [c] : the sorted labels.
    coef_ [1 d] or [c d], intercept_ [1] or [c] : the learned head, in scikit-learn's form (one row for two classes).
    head_ : the same as an `hsfm.Head`, weight [c d] and bias [c] in float32, one row per class.
    start_coef_, start_intercept_ : the head it started from, in the same form.
    kept_epoch_ : the epoch whose head was kept, from 1.
    history_ : DataFrame, one row per epoch: outer_loss, hard_loss (natural log), val_average, val_worst_group,
        val_worst_class (fractions; NaN where unknown), kept.
    support_indices_ : rows of X that were edited.
    moved_ : share of the validation predictions that differ from the starting head's. Below 0.005 the support may be
        dead; the logger `hsfm.methods.hsfm.train` warns of it and says what to do.
    select_by_, inner_lr_, seed_ : what was used.
    n_features_in_, feature_names_in_ : number and names of the columns of X.

    In a Pipeline, earlier steps transform X but not an X_val that is passed as `hsfm__X_val`. Either leave scaling to
    `standardize`, or transform X_val beforehand, or let the pipeline do it: `Pipeline(..., transform_input=["X_val"])`
    with scikit-learn's metadata routing on and `.set_fit_request(X_val=True, y_val=True, groups_val=True)`.

    Example
    -------
    >>> model = HSFMClassifier(random_state=0)
    >>> model.fit(X, y, X_val=X_val, y_val=y_val, groups_val=background_val)
    >>> model.predict(X_test)
    """

    def __init__(self, **parameters: Any):
        unknown = parameters.keys() - PARAMETERS.keys()
        if unknown:
            raise TypeError(
                f"HSFMClassifier has no parameter {min(unknown)!r}; there are {', '.join(sorted(PARAMETERS))}"
            )
        for name, default in PARAMETERS.items():
            setattr(self, name, parameters.get(name, default))

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, groups_val: Any = None) -> "HSFMClassifier":
        """Learn the head from X [n d] and labels y [n], with hard samples from X_val [m d] and y_val [m].

        groups_val [m]: labels of any type, of spurious attributes or of whole groups: rows that agree in y_val and
        groups_val form a group either way. They choose the epoch and nothing else.

        Raises ValueError naming the argument: settings out of range, inputs that do not belong together, a NaN, a
        class without a validation row, and without X_val a class with fewer than two rows.
        """
        select_by = self._rule(X_val, y_val, groups_val)
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], order="C")
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: holds one class only, {self.classes_.tolist()}; expected at least two")
        given, rng = self.random_state, check_random_state(self.random_state)
        self.seed_ = int(given if isinstance(given, Integral) else rng.randint(2**31))
        if X_val is None:
            rows, held_out = self._hold_out(y, rng)
            X_val, y_val, attribute = X[held_out], y[held_out], None
        else:
            rows = np.arange(len(y))
            X_val, y_val, attribute = self._check_validation(X_val, y_val, groups_val, X.dtype)
        X, y = X[rows], y[rows]

        shift, scale = np.zeros_like(X[0]), np.ones_like(X[0])
        if self.standardize:
            scaler = StandardScaler().fit(X)
            shift, scale = scaler.mean_.astype(X.dtype), scaler.scale_.astype(X.dtype)
        X, X_val = (X - shift) / scale, (X_val - shift) / scale
        start = self._start(X, y, shift, scale)
        result = self._train(
            select_by, self._embeddings("train", X, y), self._embeddings("val", X_val, y_val, attribute), start
        )
        self.start_coef_, self.start_intercept_ = _binary(start, shift, scale)
        self.coef_, self.intercept_ = _binary(result.head[0], shift, scale)
        self.head_ = _rows(self.coef_, self.intercept_)
        self.support_indices_ = rows[result.support_rows[0].cpu().numpy()]
        return self

    def _train(self, select_by: str, train: Embeddings, val: Embeddings, start: Head) -> MetaResult:
        """Run HSFM's engine, and keep its measurements."""
        # Python's own numbers, since a parameter grid may hold numpy's
        given = {name: getattr(self, name) for name in (*SETTINGS, "inner_lr", "hard_per_class")}
        given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        if given["inner_lr"] == "auto":
            given["inner_lr"] = min(AUTO_LR / train.features.shape[1], MOST_LR)
        hard = HardSetSettings.model_validate({"hard_per_class": given.pop("hard_per_class")}, strict=True)
        settings = Settings.model_validate({**given, "select_by": select_by}, strict=True)
        device = choose_device(self.device)
        train, val, start = train.to(device), val.to(device), start.to(device)
        scorer, k_hard = scorer_of(settings, val), hard.hard_per_class
        with quiet():
            result = meta_train(train, val, start, settings, seeds=[self.seed_], hard_per_class=k_hard, scorer=scorer)
        self.select_by_, self.inner_lr_ = select_by, settings.inner_lr
        self.kept_epoch_, self.moved_ = int(result.kept_epoch[0]), float(result.moved[0])
        self.history_ = result.history[HISTORY]
        return result

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits: `[n]` of the second class against the first for two classes, else `[n c]`."""
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """Labels `[n]`; the lower class wins a tie."""
        logits = self.decision_function(X)
        return self.classes_[(logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n c"]:
        """The head's softmax, columns in the order of `classes_`."""
        logits = self.decision_function(X)
        return softmax(logits if logits.ndim == 2 else np.stack([-logits, logits], axis=1) / 2)

    def _rule(self, X_val: Any, y_val: Any, groups_val: Any) -> str:
        """The rule that selects the epoch; ValueError where the arguments of `fit` do not go together."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val, y_val: one of them is None; expected both or neither")
        if groups_val is not None and X_val is None:
            raise ValueError("groups_val: is given without X_val and y_val; expected the groups of their rows")
        if self.select_by is None:
            return "worst_class" if groups_val is None else "worst_group"
        return self.select_by

    def _hold_out(self, y: Int[np.ndarray, " n"], rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to validate on, ascending; every class has rows in both."""
        share = self.validation_fraction
        if not (isinstance(share, Real) and 0 < share < 1):
            raise ValueError(f"validation_fraction: {share!r} is not a number between 0 and 1")
        held_out = np.zeros(len(y), dtype=bool)
        for code, name in enumerate(self.classes_.tolist()):
            members = np.flatnonzero(y == code)
            if len(members) < 2:
                raise ValueError(f"y: class {name!r} has 1 row, and holding out takes 2; give X_val or more rows")
            size = min(max(round(share * len(members)), 1), len(members) - 1)
            held_out[rng.permutation(members)[:size]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _check_validation(self, X_val: Any, y_val: Any, groups_val: Any, dtype: np.dtype) -> tuple:
        """Features `[m d]`, class codes `[m]`, and attribute codes `[m]` or None, of the validation rows."""
        try:
            X_val = validate_data(self, X_val, dtype=dtype, order="C", reset=False)
        except ValueError as error:  # scikit-learn calls it X
            raise ValueError(f"X_val: {error}") from error
        check_consistent_length(X_val, y_val, groups_val)
        y_val, classes = column_or_1d(y_val), self.classes_.tolist()
        codes = pd.Index(self.classes_).get_indexer(y_val)
        if set(codes) != set(range(len(classes))):
            raise ValueError(
                f"y_val: holds {pd.unique(y_val).tolist()}; expected every class of y, {classes}, no other"
            )
        if groups_val is None:
            return X_val, codes, None
        return X_val, codes, pd.factorize(column_or_1d(groups_val))[0]

    def _start(self, X: np.ndarray, y: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> Head:
        """The starting head on standardized features."""
        if self.head is None:
            model = LogisticRegression(C=self.C, max_iter=1000).fit(X, y)
            return _rows(model.coef_, model.intercept_, X.dtype)
        parts = (self.head.weight, self.head.bias) if isinstance(self.head, Head) else self.head
        if not isinstance(parts, tuple | list) or len(parts) != 2:
            raise ValueError(f"head: {type(self.head).__name__} is not an hsfm.Head or a pair (weight, bias)")
        weight, bias = (torch.as_tensor(part).detach().cpu().double().numpy() for part in parts)
        c, d = len(self.classes_), X.shape[1]
        if weight.shape not in ((c, d), (1, d) if c == 2 else ()) or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"head: shapes {weight.shape} and {bias.shape} do not fit {c} classes and {d} columns of X"
            )
        # w . x + b = (w * scale) . (x - shift) / scale + (b + w . shift)
        # row by row: a matrix product sums in another order for one row than for two, by processor
        return _rows(weight * scale, bias + (weight * shift).sum(axis=1), X.dtype)

    def _embeddings(self, split: str, X: np.ndarray, y: np.ndarray, attribute: np.ndarray | None = None) -> Embeddings:
        attribute = np.full(len(y), -1) if attribute is None else attribute
        return Embeddings(
            features=torch.from_numpy(X),
            y=torch.from_numpy(y.astype(np.int64)),
            attribute=torch.from_numpy(attribute.astype(np.int64)),
            image_id=tuple(str(row) for row in range(len(y))),
            class_names=tuple(str(name) for name in self.classes_),
            attribute_names=tuple(str(code) for code in range(attribute.max() + 1)),
            split=split,
        )


def _rows(weight: np.ndarray, bias: np.ndarray, dtype: Any = np.float32) -> Head:
    return Head(*(torch.from_numpy(part.astype(dtype)) for part in two_rows(weight, bias)))


def _binary(head: Head, shift: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """coef_ and intercept_ on X as given, of two classes the difference of their rows."""
    weight, bias = head.weight.cpu().numpy(), head.bias.cpu().numpy()
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    coef, intercept = fold(weight.astype(np.float64), bias, shift, scale)
    return coef.astype(weight.dtype), intercept.astype(weight.dtype)


_FIELDS = {name: field for name, field in Settings.model_fields.items() if name in SETTINGS}
_TEXTS = (f"{name} : {field.description} Default: {field.default!r}." for name, field in _FIELDS.items())
_FILLED = "\n".join(textwrap.fill(text, 119, initial_indent=" " * 4, subsequent_indent=" " * 8) for text in _TEXTS)
HSFMClassifier.__doc__ = HSFMClassifier.__doc__.replace("{settings}", _FILLED.strip())
# as scikit-learn, help() and editors read them
HSFMClassifier.__init__.__signature__ = inspect.Signature(
    [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in PARAMETERS.items()]
)

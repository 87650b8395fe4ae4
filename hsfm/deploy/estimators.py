"""Methods on embeddings as scikit-learn classifiers: a feature matrix in, a linear head out.

Each is made from the `Settings` of its module in hsfm/methods and goes by its label: DFRClassifier, GroupDROClassifier,
HSFMClassifier, ... Letters: n rows, d columns of X, c classes.
"""

import inspect
import textwrap
from dataclasses import replace
from importlib import import_module
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from hsfm.core.device import choose_device
from hsfm.core.progress import quiet
from hsfm.core.text import few
from hsfm.data.labels import attributes
from hsfm.features.embeddings import Embeddings
from hsfm.features.standardize import fold
from hsfm.heads.fit import Fit, NotApplicable
from hsfm.heads.hard_set import HardSetSettings, build
from hsfm.heads.hard_training import TUNED, TuneSettings
from hsfm.heads.head import Head, two_rows
from hsfm.heads.known_methods import Method, found
from hsfm.heads.logistic_regression import scaler_of
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.requirements import Requirement, check_labels
from hsfm.heads.scorer import OF_GROUPS
from hsfm.heads.supervision import fit_supervised

AUTO_LR = 0.064  # times 1 / d: a step of size alpha moves a standardized row's logits by about alpha d, for any d
MOST_LR = 0.01
INNER_LR = (
    "auto",
    'step size of the head (alpha). "auto" is 0.064 / d, at most 0.01: 0.0005 at d = 128, the paper\'s 0.00005 at '
    "d = 1280. It suits columns whose spread is of the order of 1.",
)
HARD_PER_CLASS = (
    HardSetSettings().hard_per_class,
    "hard validation rows per class; keep it at or below the number of minority rows of a class. For tune=False.",
)
TUNE = (
    True,
    "choose {} and the hard rows per class on held-out halves of the validation rows, then fit on all of them. False "
    "takes these parameters as they are and picks the epoch on the rows that teach; a "
    "`hsfm.heads.hard_training.TuneSettings`, or a dict of its fields, is another grid.",
)
EARLY_C = (
    0.001,
    "inverse strength of the L2 penalty of the logistic regression on X whose logits on the validation rows stand for "
    "those of an early epoch.",
)
COMMON = {  # parameters beside a method's settings: default, meaning
    "head": (
        None,
        "a linear head on X that stands for ERM's, instead of a logistic regression: an `hsfm.Head` or a pair (weight "
        "[c d], bias [c]), rows in the order of `classes_`, that is of the sorted labels. For two classes (weight "
        "[1 d], bias [1]) will do too, so that a fitted linear classifier is `head=(model.coef_, model.intercept_)`.",
    ),
    "C": (1.0, "inverse strength of the L2 penalty of the logistic regression."),
    "validation_fraction": (
        0.2,
        "share of each class of X, or of each group where groups are given, that is held out where X_val is not; at "
        "least two rows, or one where the hardest rows teach.",
    ),
    "standardize": (
        True,
        "bring the columns to mean 0 and standard deviation 1 on the training rows (a constant column to 0). Only "
        "training happens in that space: head, coef_ and intercept_ are for X as it was given.",
    ),
    "random_state": (
        None,
        "draws the held-out rows, and what the method draws. An int is the method's seed itself and makes equal calls "
        "give equal bytes on one machine; None and a RandomState draw a seed anew for each fit.",
    ),
    "device": ("auto", '"auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...'),
}
ATTRIBUTES = (
    "classes_ [c] : the sorted labels.",
    "coef_ [1 d] or [c d], intercept_ [1] or [c] : the learned head, in scikit-learn's form (one row for two classes).",
    "head_ : the same as an `hsfm.Head`, weight [c d] and bias [c] in float32, one row per class.",
    "start_coef_, start_intercept_ : the head that stood for ERM's, in the same form.",
    'groups_used_ : "given" where group labels took part in training or choosing, else "classes".',
    "chosen_ : settings that the method found and the like, by name; most as lists of one entry per head, here one.",
    "select_by_, seed_ : what was used.",
    "n_features_in_, feature_names_in_ : number and names of the columns of X.",
)
HISTORY = (
    "history_ : DataFrame, one row per epoch, and per trial where several are compared: losses (natural log), "
    "val_average, val_worst_group, val_worst_class (fractions; NaN where unknown), kept.",
)
KEPT = ("kept_epoch_, inner_lr_ : the epoch whose head was kept, from 1, and the step size that was used.",)
DOC = """{summary}

    Source: {source}.

    From frozen features and a linear head on them, by default a logistic regression on X, it makes another linear head;
    `fit` says which rows and group labels do what. Evaluate it on rows that are in neither X nor X_val.

    Parameters (all by name)
    ------------------------
    {parameters}

    Attributes
    ----------
    {attributes}
    """


def _module(method: str) -> Any:
    return import_module(f"hsfm.methods.{method}")


def _parameters(method: Method) -> dict[str, tuple[Any, str]]:
    """Default and meaning of every parameter of a method's classifier."""
    found = {}
    for name, field in _module(method.name).Settings.model_fields.items():
        found[name] = field.default, field.description
    default, text = found.pop("select_by")
    own = 'None is "worst_group" where the validation rows have groups, else "worst_class".'
    text = text.replace("null takes the configuration's.", own)
    if isinstance(method.features, dict):  # there is one network here, which stands for ERM's
        on = next(value for value, features in method.features.items() if features == "erm")
        found["on"] = on, found["on"][1]
    if "hard_set" in method.needs:
        tuned = ", ".join(name for name in TUNED if name in found)
        found |= {"tune": (TUNE[0], TUNE[1].format(tuned)), "inner_lr": INNER_LR, "hard_per_class": HARD_PER_CLASS}
    if "max_edit" in found:
        found["max_edit"] = "auto", found["max_edit"][1].replace("Where it is not given", '"auto"')
    if "early_logits" in method.extra:
        found["early_C"] = EARLY_C
    return found | {"select_by": (default, text), **{n: c for n, c in COMMON.items() if n != "device" or method.device}}


def _documented(text: str, method: Method, parameters: dict[str, tuple[Any, str]]) -> str:
    """A class's docstring, filled in."""
    history, hard = "history" in method.tables, "hard_set" in method.needs
    entries = {
        "parameters": [f"{name} : {text} Default: {default!r}." for name, (default, text) in parameters.items()],
        "attributes": [*ATTRIBUTES, *(HISTORY if history else ()), *(KEPT if hard else ())],
    }
    for name, lines in entries.items():
        filled = (textwrap.fill(line, 119, initial_indent=" " * 4, subsequent_indent=" " * 8) for line in lines)
        text = text.replace(f"    {{{name}}}", "\n".join(filled))
    summary = " ".join(_module(method.name).__doc__.split("\n\n")[0].split())
    summary = textwrap.fill(summary, 115, subsequent_indent=" " * 4)
    return text.replace("{summary}", summary).replace("{source}", method.source)


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """Base of every method's classifier; `class NAME(HeadClassifier, method="dfr")` is that of hsfm/methods/dfr.py.

    In a Pipeline, earlier steps transform X but not an X_val that is passed as `hsfm__X_val`. Either leave scaling to
    `standardize`, or transform X_val beforehand, or let the pipeline do it: `Pipeline(..., transform_input=["X_val"])`
    with scikit-learn's metadata routing on and `.set_fit_request(X_val=True, y_val=True, groups_val=True)`.
    """

    _method: Method
    _hard: bool  # whether the hardest validation rows teach
    _in_double = False  # methods compute in float32, and hand out heads for X as it was given

    def __init_subclass__(cls, method: str = "", **other: Any):
        super().__init_subclass__(**other)
        if not method:
            return
        cls._method = found()[method]
        cls._hard = "hard_set" in cls._method.needs
        parameters = _parameters(cls._method)
        cls._defaults = {name: default for name, (default, _) in parameters.items()}

        def __init__(self: Any, **given: Any):
            unknown = given.keys() - self._defaults.keys()
            if unknown:
                name, known = type(self).__name__, ", ".join(sorted(self._defaults))
                raise TypeError(f"{name} has no parameter {min(unknown)!r}; there are {known}")
            for name, default in self._defaults.items():
                setattr(self, name, given.get(name, default))

        # as scikit-learn, help() and editors read them
        kind = inspect.Parameter.KEYWORD_ONLY
        by_name = [inspect.Parameter(name, kind, default=default) for name, default in cls._defaults.items()]
        __init__.__signature__ = inspect.Signature(
            [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *by_name]
        )
        cls.__init__, cls.__doc__ = __init__, _documented(cls.__doc__, cls._method, parameters)

    def fit(
        self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, groups_val: Any = None, groups: Any = None
    ) -> "HeadClassifier":
        """Learn the head from X [n d] and labels y [n], and validation rows X_val [m d] with y_val [m].

        groups_val [m], groups [n]: labels of any type, of spurious attributes or of whole groups, of the rows of X_val
        and of X: rows that agree in class and label form a group either way. NaN, the text nan, and -1 beside others
        than 1 stand for an unknown one. Those of X_val choose by the worst group; a method that trains on groups reads
        those of its rows (`on`), and takes each class for a group where neither is given. Without X_val a share of X
        is held out, with its groups, and is as biased as X.

        A grid search (`GridSearchCV(...).fit(X, y, X_val=...)`) cuts whatever is as long as X into its folds, an X_val
        of that length too, with y_val and groups_val: each fit sees a part of it. Give X_val another number of rows. It
        hands `groups` to its splitter, and to `fit` only with metadata routing.

        Raises ValueError naming the argument: settings out of range, inputs that do not belong together, a NaN, a
        class without a validation row, groups of other rows than those that teach, and without X_val a class, or a
        group, with too few rows.
        """
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val, y_val: one of them is None; expected both or neither")
        if groups_val is not None and X_val is None:
            raise ValueError("groups_val: is given without X_val and y_val; expected the groups of their rows")
        X, y = validate_data(self, X, _plain(y), dtype=[np.float64, np.float32], order="C")
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: holds one class only, {self.classes_.tolist()}; expected at least two")
        known = (groups if X_val is None else groups_val) is not None
        settings = self._settings(X.shape[1], "worst_group" if known else "worst_class")
        given, rng = self.random_state, check_random_state(self.random_state)
        self.seed_ = int(given if isinstance(given, Integral) else rng.randint(2**31))
        check_consistent_length(X, groups)
        attribute, attribute_val = _codes(groups, groups_val)
        rows = np.arange(len(y))
        if X_val is None:
            rows, held_out = self._hold_out(y, attribute, rng)
            X_val, y_val = X[held_out], y[held_out]
            attribute_val = None if attribute is None else attribute[held_out]
        else:
            X_val, y_val = self._check_validation(X_val, y_val, groups_val, X.dtype)
        X, y, attribute = X[rows], y[rows], None if attribute is None else attribute[rows]

        shift, scale = np.zeros_like(X[0]), np.ones_like(X[0])
        if self.standardize:
            scaler = scaler_of(X)
            shift, scale = scaler.mean_.astype(X.dtype), scaler.scale_.astype(X.dtype)
        X, X_val = (X - shift) / scale, (X_val - shift) / scale
        parts = {"train": (X, y, attribute), "val": (X_val, y_val, attribute_val)}
        splits = self._embeddings(parts, settings)
        self._check_labels(settings, splits)  # before the start, which may take long
        start = self._start(X, y, shift, scale)
        fit, used = self._fit(settings, splits, start)
        self.start_coef_, self.start_intercept_ = _binary(start, shift, scale, X.dtype)
        self.coef_, self.intercept_ = _binary(fit.head[0], shift, scale, X.dtype)
        self.head_ = _rows(self.coef_, self.intercept_)
        nowhere = groups is None and groups_val is None
        self.groups_used_ = "classes" if nowhere or used == "none" else "given"
        self.select_by_, self.chosen_ = settings.select_by, dict(fit.settings)
        self._keep(fit, settings, rows)
        return self

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

    def _settings(self, d: int, rule: str) -> MethodSettings:
        """The method's settings. rule: for a select_by of None."""
        kind = _module(self._method.name).Settings
        given = {name: _python(getattr(self, name)) for name in kind.model_fields}
        given["select_by"] = rule if self.select_by is None else given["select_by"]
        if given.get("inner_lr") == "auto":
            given["inner_lr"] = min(AUTO_LR / d, MOST_LR)
        if self._hard:
            given["tune"] = self._tune()
        if given.get("max_edit") == "auto":
            del given["max_edit"]
        return kind.model_validate(given, strict=True)

    def _tune(self) -> TuneSettings | None:
        """The grid; raises ValueError beside a parameter that it would choose."""
        if self.tune is None or self.tune is False:
            return None
        for name in (*TUNED, "hard_per_class"):
            if name in self._defaults and getattr(self, name) != self._defaults[name]:
                raise ValueError(f"{name}: {getattr(self, name)!r} is given, but tune chooses it; set tune=False")
        if isinstance(self.tune, dict):
            return TuneSettings(**self.tune)
        return TuneSettings() if self.tune is True else self.tune

    def _fit(self, settings: MethodSettings, splits: dict[str, Embeddings], start: Head) -> tuple[Fit, str]:
        """The method's fit, and its use of group labels."""
        train, val, needs = splits["train"], splits["val"], {}
        kind = val.features.dtype
        start = Head(start.weight.to(kind), start.bias.to(kind))
        if self._hard:
            size = HardSetSettings.model_validate({"hard_per_class": _python(self.hard_per_class)}, strict=True)
            needs["hard_set"] = build(start, val, per_class=size.hard_per_class)
        if "early_logits" in self._method.extra:
            # ASSUME: an early network goes by what a strongly penalized head goes by, the features of most effect
            early = _regressed(train.features.numpy(), train.y.numpy(), self.early_C)
            val = replace(val, extra={"early_logits": early.logits(val.features)})
        device = choose_device(self.device if self._method.device else "cpu")
        data = train.to(device), val.to(device), start.to(device)
        with quiet():
            return fit_supervised(_module(self._method.name), *data, settings=settings, seeds=[self.seed_], **needs)

    def _keep(self, fit: Fit, settings: MethodSettings, rows: Int[np.ndarray, " n"]) -> None:
        """Attributes that not every method has. rows: of X, those that were not held out."""
        if "history" in fit.tables:
            self.history_ = fit.tables["history"].drop(columns=["number", "seed"], errors="ignore")
        if self._hard:
            self.kept_epoch_ = int(np.ravel(fit.settings["kept_epoch"])[0])
            self.inner_lr_ = fit.settings.get("inner_lr", settings.inner_lr)

    def _hold_out(
        self, y: Int[np.ndarray, " n"], attribute: Int[np.ndarray, " n"] | None, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to validate on, ascending; every class, or group, has rows in both."""
        share, least = self.validation_fraction, 1 if self._hard and not self.tune else 2  # others halve validation
        if not (isinstance(share, Real) and 0 < share < 1):
            raise ValueError(f"validation_fraction: {share!r} is not a number between 0 and 1")
        held_out, within = np.zeros(len(y), dtype=bool), "" if attribute is None else " in a group"
        part = y if attribute is None else y * (attribute.max() + 2) + attribute + 1
        for members in (np.flatnonzero(part == code) for code in np.unique(part)):
            if len(members) <= least:
                n, name = len(members), self.classes_[y[members[0]]].tolist()
                raise ValueError(
                    f"y: class {name!r} has {n} row{'s' * (n > 1)}{within}, and holding out takes {least + 1}; "
                    "give X_val or more rows"
                )
            size = min(max(round(share * len(members)), least), len(members) - 1)
            held_out[rng.permutation(members)[:size]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _check_validation(
        self, X_val: Any, y_val: Any, groups_val: Any, dtype: np.dtype
    ) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        """Features and class codes of the validation rows."""
        try:
            X_val = validate_data(self, X_val, dtype=dtype, order="C", reset=False)
        except ValueError as error:  # scikit-learn calls it X
            raise ValueError(f"X_val: {error}") from error
        check_consistent_length(X_val, y_val, groups_val)
        y_val, classes = column_or_1d(_plain(y_val)), self.classes_.tolist()
        codes = pd.Index(self.classes_).get_indexer(y_val)
        if set(codes) != set(range(len(classes))):
            given = few(pd.unique(y_val).tolist())
            raise ValueError(f"y_val: holds [{given}]; expected every class of y, [{few(classes)}], no other")
        return X_val, codes

    def _check_labels(self, settings: MethodSettings, splits: dict[str, Embeddings]) -> None:
        asked = Requirement(self._method.label, settings.select_by, settings.groups, settings.halves)
        for reason in check_labels(splits, {type(self).__name__: asked}).values():
            raise NotApplicable(reason)

    def _start(self, X: np.ndarray, y: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> Head:
        """The starting head on standardized features."""
        if self.head is None:
            return _regressed(X, y, self.C)
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

    def _embeddings(self, parts: dict[str, tuple], settings: MethodSettings) -> dict[str, Embeddings]:
        """The splits from features, class codes, and attribute codes; where these are None, classes serve as groups."""
        taught = {"none": (), "both": ("train", "val")}.get(settings.groups, (settings.groups,))
        known = [split for split, (*_, attribute) in parts.items() if attribute is not None]
        lacking = [{"train": "groups", "val": "groups_val"}[split] for split in taught if split not in known]
        if known and lacking:
            raise ValueError(
                f"{lacking[0]}: is None, but {type(self).__name__} trains on these groups (on={settings.on!r}); "
                "give them, or neither groups nor groups_val to take each class for a group"
            )
        # classes serve to train on; that worst_group has none to choose by is the scorer's to say
        serving = () if settings.select_by in OF_GROUPS else taught
        names = tuple(map(str, range(1 + max((parts[split][2].max() for split in known), default=0))))
        splits = {}
        for split, (X, y, attribute) in parts.items():
            codes = np.full(len(y), 0 if split in serving else -1) if attribute is None else attribute
            splits[split] = Embeddings(
                features=torch.from_numpy(X if self._in_double else X.astype(np.float32)),
                y=torch.from_numpy(y.astype(np.int64)),
                attribute=torch.from_numpy(codes.astype(np.int64)),
                image_id=tuple(str(row) for row in range(len(y))),
                class_names=tuple(str(name) for name in self.classes_),
                attribute_names=names if known or serving else (),
                split=split,
            )
        return splits


class HSFMClassifier(HeadClassifier, method="hsfm"):
    """A linear classifier made robust to spurious correlations by hard-set-guided feature-space meta-learning (HSFM).

    From a linear head, by default a logistic regression on X, HSFM learns edits of a few training rows (the support)
    such that the head, adapted on the edited rows, does well on the validation rows that it finds hardest. The result
    is an ordinary linear head. X holds features, usually of a frozen network. Source: arXiv 2603.29313.

    HSFM helps as far as the validation rows show what X and y lack: give `fit` an X_val in which minority groups are
    not rare, of images that the network has not seen. Without X_val a share of X is held out, which is as biased as X
    and fitted already by a network trained on X: then the head hardly moves, and may even get worse. HSFM trains on
    the validation rows, so `history_` flatters the head; evaluate it on other rows. Groups choose the epoch alone.

    Parameters (all by name)
    ------------------------
    {parameters}

    Attributes
    ----------
    {attributes}
    support_indices_ : rows of X that were edited.
    moved_ : share of the validation predictions that differ from the starting head's. Below 0.005 the support may be
        dead; the logger `hsfm.methods.hsfm.train` warns of it and says what to do.

    Example
    -------
    >>> model = HSFMClassifier(random_state=0)
    >>> model.fit(X, y, X_val=X_val, y_val=y_val, groups_val=background_val)
    >>> model.predict(X_test)
    """

    _in_double = True

    def _keep(self, fit: Fit, settings: MethodSettings, rows: Int[np.ndarray, " n"]) -> None:
        super()._keep(fit, settings, rows)
        self.moved_ = fit.settings["moved"][0]
        self.support_indices_ = rows[np.array(fit.tables["support"]["image_id"].to_pylist(), dtype=int)]


def _plain(labels: Any) -> Any:
    """Labels of one of pandas' own types (nullable, pyarrow, categorical) in numpy's, NaN for a missing one."""
    if not isinstance(getattr(labels, "dtype", None), pd.api.extensions.ExtensionDtype):
        return labels
    values = pd.Series(labels).astype(object)
    return values.where(values.notna(), np.nan).infer_objects().to_numpy()


def _codes(*columns: Any) -> list[Int[np.ndarray, " _"] | None]:
    """Codes of group labels, the same label the same code in all columns, -1 for a missing one; None for None."""
    series = [pd.Series(column_or_1d(_plain(column)), dtype=object) for column in columns if column is not None]
    codes = pd.factorize(attributes(pd.concat([pd.Series(dtype=object), *series]), "group labels"))[0]
    ends = np.cumsum([0 if column is None else len(column) for column in columns])
    parts = np.split(codes, ends[:-1])
    return [None if column is None else part for column, part in zip(columns, parts, strict=True)]


def _python(value: Any) -> Any:
    """Python's own numbers, and tuples for lists, since a parameter grid may hold numpy's."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_python, value)) if isinstance(value, list | tuple) else value


def _regressed(X: np.ndarray, y: np.ndarray, C: float) -> Head:
    model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
    return _rows(model.coef_, model.intercept_, X.dtype)


def _rows(weight: np.ndarray, bias: np.ndarray, dtype: Any = np.float32) -> Head:
    return Head(*(torch.from_numpy(part.astype(dtype)) for part in two_rows(weight, bias)))


def _binary(head: Head, shift: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """coef_ and intercept_ on X as given, of two classes the difference of their rows."""
    weight, bias = head.weight.cpu().numpy(), head.bias.cpu().numpy()
    if len(weight) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    coef, intercept = fold(weight.astype(np.float64), bias, shift, scale)
    return coef.astype(dtype), intercept.astype(dtype)


def _make(method: Method) -> type[HeadClassifier]:
    return type(method.estimator, (HeadClassifier,), {"__module__": __name__, "__doc__": DOC}, method=method.name)


# by name in this module, where pickle looks for them
_METHODS = [method for method in found().values() if not method.images and method.estimator not in globals()]
globals().update({method.estimator: _make(method) for method in _METHODS})

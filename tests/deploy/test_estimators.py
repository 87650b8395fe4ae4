import inspect
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from hsfm.core.metrics import accuracy_by, worst
from hsfm.deploy.estimators import HSFMClassifier
from hsfm.heads.hard_set import build
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm import train as meta
from hsfm.methods.hsfm.outer_loop import Settings
from tests.conftest import planted

FEW = {"tune": False, "epochs": 3, "support_steps": 2, "support_per_class": 24, "hard_per_class": 30, "random_state": 0}
GRID = {"inner_lr": (0.05, 0.1), "outer_lr": (0.3,), "hard_share": (1.0,), "epochs": 2, "repeats": 1}


@parametrize_with_checks([HSFMClassifier(tune=False, epochs=2), HSFMClassifier(tune=GRID)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data(splits):
    """Arguments of `fit`, in double."""
    tr, val = splits["train"], splits["val"]
    return {
        "X": tr.features.double().numpy(),
        "y": tr.y.numpy(),
        "X_val": val.features.double().numpy(),
        "y_val": val.y.numpy(),
        "groups_val": val.attribute.numpy(),
    }


def three_classes(split, seed):
    e = planted(split, [60, 10, 10, 60, 60, 10], seed=seed, classes=3)
    return e.features.numpy(), e.y.numpy(), e.attribute.numpy()


def fitted(data, **settings):
    return HSFMClassifier(**{**FEW, **settings}).fit(**data)


def same_head(a, b):
    return np.array_equal(a.coef_, b.coef_) and np.array_equal(a.intercept_, b.intercept_)


def worst_group(predicted, e):
    return float(worst(accuracy_by(torch.as_tensor(predicted) == e.y, e.group, 4)))


def test_the_defaults_raise_the_worst_group(data, splits):
    test = splits["test"]
    model = HSFMClassifier(random_state=0).fit(**data)
    before = (test.features.numpy() @ model.start_coef_[0] + model.start_intercept_[0] > 0).astype(int)
    assert worst_group(model.predict(test.features.double().numpy()), test) > worst_group(before, test) + 0.15
    assert model.moved_ > meta.DEAD_SHARE


@pytest.mark.parametrize("names", ["classes", "groups", "signs"])
def test_groups_may_be_attributes_or_whole_groups(data, names):
    """Any labels that split the classes in the same way choose the same epoch."""
    attribute, y = data["groups_val"], data["y_val"]
    texts, groups = np.array(["water", "land"])[attribute], list(2 * y + attribute)
    other = {"classes": texts, "groups": groups, "signs": 2 * attribute - 1}[names]
    model, expected = fitted({**data, "groups_val": other}, epochs=6), fitted(data, epochs=6)
    assert same_head(model, expected)
    assert model.history_.equals(expected.history_)
    assert model.select_by_ == "worst_group"


def engine(tr, val, head, *, select_by="worst_group", seed=0):
    given = {name: value for name, value in FEW.items() if name not in ("random_state", "hard_per_class")}
    settings = Settings(**given, inner_lr=0.064 / 12, select_by=select_by)
    hard_set = build(head, val, per_class=FEW["hard_per_class"])
    return meta.train(
        tr, val, head, settings, seeds=[seed], hard_per_class=hard_set.per_class, scorer=Scorer(val, select_by),
        first_hard_set=hard_set,
    )  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
def test_without_standardization_it_is_the_engine(splits, erm_head, double):
    tr, val, head = splits["train"], splits["val"], erm_head
    if double:
        tr, val = (replace(e, features=e.features.double()) for e in (tr, val))
        head = Head(head.weight.double(), head.bias.double())
    expected = engine(tr, val, head)
    model = HSFMClassifier(**FEW, standardize=False, head=head).fit(
        tr.features.numpy(), tr.y.numpy(), val.features.numpy(), val.y.numpy(), val.attribute.numpy()
    )
    weight, bias = expected.head[0].weight.numpy(), expected.head[0].bias.numpy()
    assert np.array_equal(model.coef_, weight[1:] - weight[:1])
    assert np.array_equal(model.intercept_, bias[1:] - bias[:1])
    assert model.coef_.dtype == weight.dtype
    assert np.array_equal(model.support_indices_, expected.support_rows[0].numpy())
    assert model.history_.equals(expected.history[list(model.history_)])
    assert (model.kept_epoch_, model.seed_) == (int(expected.kept_epoch[0]), 0)
    assert model.moved_ == float(expected.moved[0])


def test_standardization_is_training_on_standardized_columns(data):
    """And the columns' own units do not matter; a constant column stays out of it."""
    expected = fitted(data)
    scaler = StandardScaler().fit(data["X"])
    inside = fitted(
        {**data, "X": scaler.transform(data["X"]), "X_val": scaler.transform(data["X_val"])}, standardize=False
    )
    x = data["X_val"]
    logits = expected.decision_function(x)
    np.testing.assert_allclose(inside.decision_function(scaler.transform(x)), logits, rtol=1e-8, atol=1e-8)
    unit, zero = np.logspace(-3, 3, 12), np.linspace(-50, 50, 12)
    moved = fitted({**data, "X": data["X"] * unit + zero, "X_val": x * unit + zero})
    np.testing.assert_allclose(moved.decision_function(x * unit + zero), logits, rtol=1e-5, atol=1e-5)
    five = {name: np.c_[data[name], np.full(len(data[name]), 5.0)] for name in ("X", "X_val")}
    constant = fitted({**data, **five}, inner_lr=expected.inner_lr_)
    assert constant.coef_[0, 12] == 0
    np.testing.assert_allclose(constant.decision_function(five["X_val"]), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("standardize", [True, False])
def test_the_starting_head_is_the_logistic_regression(data, standardize):
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(data["X"])
    theirs = LogisticRegression(C=0.3, max_iter=1000).fit(scaler.transform(data["X"]), data["y"])
    model = fitted(data, C=0.3, standardize=standardize)
    expected = theirs.decision_function(scaler.transform(data["X_val"]))
    started = data["X_val"] @ model.start_coef_[0] + model.start_intercept_[0]
    np.testing.assert_allclose(started, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_given_head_is_where_it_starts(data, standardize):
    theirs = LogisticRegression(C=0.01).fit(data["X"], data["y"])
    pair = (theirs.coef_, theirs.intercept_)
    head = Head(*(torch.tensor(np.concatenate([-part, part]) / 2) for part in pair))
    models = [fitted(data, standardize=standardize, head=given) for given in (pair, head)]
    for model in models:
        np.testing.assert_allclose(model.start_coef_, theirs.coef_, rtol=1e-12)
        np.testing.assert_allclose(model.start_intercept_, theirs.intercept_, rtol=1e-12, atol=1e-12)
        assert not np.allclose(model.coef_, theirs.coef_)
    assert same_head(*models)


def test_three_classes_with_a_head_in_scikit_learns_form():
    (x, y, _), (x_val, y_val, attribute) = three_classes("train", 0), three_classes("val", 1)
    theirs = LogisticRegression().fit(x, y)
    model = HSFMClassifier(**FEW, head=(theirs.coef_, theirs.intercept_)).fit(x, y, x_val, y_val, attribute)
    np.testing.assert_allclose(model.start_coef_, theirs.coef_, rtol=1e-5)
    assert model.coef_.shape == (3, 12)
    assert model.intercept_.shape == (3,)
    probability = model.predict_proba(x_val)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert (probability.argmax(axis=1) == model.predict(x_val)).all()
    assert model.decision_function(x_val).shape == (len(x_val), 3)


def test_two_classes_follow_scikit_learns_conventions(data):
    model, x = fitted(data), data["X_val"]
    assert (model.coef_.shape, model.intercept_.shape) == ((1, 12), (1,))
    theirs = LogisticRegression().fit(data["X"], data["y"])
    theirs.coef_, theirs.intercept_ = model.coef_, model.intercept_
    np.testing.assert_allclose(model.decision_function(x), theirs.decision_function(x))
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(x))
    assert np.array_equal(model.predict(x), theirs.predict(x))


@pytest.mark.parametrize("kind", ["object", "category", "float"])
def test_labels_of_any_type(data, kind):
    names = {"float": np.array([-1.0, 2.0])}.get(kind, np.array(["land bird", "sea bird"], dtype=object))
    y, y_val = (pd.Series(names[data[key]]).astype(kind) for key in ("y", "y_val"))
    model = fitted({**data, "y": y, "y_val": y_val})
    expected = fitted(data)
    assert model.classes_.tolist() == names.tolist()
    assert same_head(model, expected)
    assert model.predict(data["X_val"]).tolist() == names[expected.predict(data["X_val"])].tolist()


def test_pandas_columns_are_remembered(data):
    columns = [f"f{i}" for i in range(12)]
    frames = {name: pd.DataFrame(data[name], columns=columns) for name in ("X", "X_val")}
    model = fitted({**data, **frames, "groups_val": pd.Series(data["groups_val"])})
    assert model.feature_names_in_.tolist() == columns
    assert same_head(model, fitted(data))
    with pytest.raises(ValueError, match="X_val: The feature names should match"):
        fitted({**data, **frames, "X_val": frames["X_val"][columns[::-1]]})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_of_x_is_kept(data, dtype):
    model, x = fitted({**data, "X": data["X"].astype(dtype)}), data["X_val"].astype(dtype)
    assert {model.coef_.dtype, model.intercept_.dtype, model.start_coef_.dtype} == {np.dtype(dtype)}
    assert model.decision_function(x).dtype == model.predict_proba(x).dtype == dtype


def test_equal_seeds_give_equal_bytes(data):
    state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002 the global one must stay
    first = fitted(data)
    assert np.array_equal(np.random.get_state()[1], state[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state[1])
    assert same_head(first, fitted(data))
    assert not same_head(first, fitted(data, random_state=1))
    assert same_head(*(fitted(data, random_state=np.random.RandomState(3)) for _ in range(2)))
    drawn = [fitted(data, random_state=None) for _ in range(2)]
    assert drawn[0].seed_ != drawn[1].seed_
    assert same_head(drawn[0], fitted(data, random_state=drawn[0].seed_)), "seed_ repeats a fit"


def test_without_validation_rows_a_share_of_every_class_is_held_out(splits):
    tr = splits["train"]
    few = np.r_[np.flatnonzero(tr.y == 0), np.flatnonzero(tr.y == 1)[:3]]
    x, y = tr.features.numpy()[few], tr.y.numpy()[few]
    model = HSFMClassifier(**{**FEW, "support_per_class": 400}, validation_fraction=0.1).fit(x, y)
    # support_per_class takes every training row, so that the rest is what was held out
    assert np.bincount(y[model.support_indices_]).tolist() == [360, 2]
    assert model.select_by_ == "worst_class"
    assert model.history_["val_worst_group"].isna().all()
    assert same_head(model, clone(model).fit(x, y))


def test_the_head_is_chosen_by_the_rule_that_is_asked_for(data):
    blind = {**data, "groups_val": None}
    assert fitted(blind).select_by_ == "worst_class"
    assert fitted(data, select_by="hard_loss").select_by_ == "hard_loss"
    assert same_head(fitted(data, select_by="worst_class"), fitted(blind)), "groups serve worst_group alone"


def test_in_a_pipeline(data):
    steps = [("scale", StandardScaler()), ("hsfm", HSFMClassifier(**FEW))]
    extra = {name: data[name] for name in ("X_val", "y_val", "groups_val")}
    by_hand = {**extra, "X_val": StandardScaler().fit(data["X"]).transform(data["X_val"])}
    prefixed = Pipeline(steps).fit(data["X"], data["y"], **{f"hsfm__{name}": part for name, part in by_hand.items()})
    with sklearn.config_context(enable_metadata_routing=True):
        asked = HSFMClassifier(**FEW).set_fit_request(X_val=True, y_val=True, groups_val=True)
        routed = Pipeline([steps[0], ("hsfm", asked)], transform_input=["X_val"]).fit(data["X"], data["y"], **extra)
    assert same_head(prefixed["hsfm"], routed["hsfm"])


def test_numbers_may_be_numpys(data):
    """As a grid search draws them."""
    model = fitted(data, inner_lr=np.float32(1e-2), inner_steps=np.arange(4, 5)[0])
    assert model.inner_lr_ == float(np.float32(1e-2))


@pytest.mark.parametrize(("d", "expected"), [(2, 0.01), (12, 0.064 / 12), (128, 5e-4), (1280, 5e-5)])
def test_the_automatic_step_size(d, expected):
    x = np.random.default_rng(0).normal(size=(40, d))
    model = HSFMClassifier(tune=False, epochs=1, random_state=0).fit(x, np.arange(40) % 2)
    assert model.inner_lr_ == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_steps": "5"}, "inner_steps\n  Input should be a valid integer"),
        ({"hard_per_class": 0}, "hard_per_class\n  Input should be greater than 0"),
        (
            {"select_by": "loss"},
            "select_by\\..*\n  Input should be 'worst_group', 'worst_class', 'average'",
        ),
        ({"device": "gpu"}, "device: 'gpu' is unknown; allowed are auto, cpu"),
        ({"head": LogisticRegression()}, r"head: LogisticRegression is not an hsfm.Head or a pair \(weight, bias\)"),
        ({"head": Head(torch.zeros(3, 12), torch.zeros(3))}, r"head: shapes \(3, 12\) and \(3,\) do not fit 2 classes"),
        ({"head": (np.zeros((2, 12)), np.zeros(1))}, r"head: shapes \(2, 12\) and \(1,\) do not fit 2 classes"),
    ],
)
def test_settings_out_of_range_are_named(data, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(data, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"X_val": None}, "X_val, y_val: one of them is None"),
        (lambda a: {"X_val": None, "y_val": None}, "groups_val: is given without X_val"),
        (lambda a: {"X_val": np.full_like(a["X_val"], np.nan)}, "X_val: Input X contains NaN"),
        (lambda a: {"X_val": a["X_val"][:, :5]}, "X_val: X has 5 features, but HSFMClassifier is expecting 12"),
        (lambda a: {"y": np.zeros(800)}, r"y: holds one class only, \[0\.0\]; expected at least two"),
        (lambda a: {"y_val": a["y_val"][:7]}, r"inconsistent numbers of samples: \[240, 7, 240\]"),
        (lambda a: {"y_val": a["y_val"] + 1}, r"y_val: holds \[[12], [12]\]; expected every class of y, .0, 1"),
        (
            lambda a: {"y_val": np.arange(240)},
            r"y_val: holds \[0, .*, 9, \.\.\. \(240 in all\)\]; expected every class",
        ),
        (lambda a: {"y_val": np.zeros_like(a["y_val"])}, r"y_val: holds \[0\]; expected every class"),
        (lambda a: {"groups_val": a["groups_val"][:9]}, r"inconsistent numbers of samples: \[240, 240, 9\]"),
        (lambda a: {"groups_val": [0, -1, *[1] * 238]}, "attribute of every val image; 1 of 240 lack it"),
        (lambda a: {"groups_val": ["in", "nan", *["out"] * 238]}, "attribute of every val image; 1 of 240 lack it"),
        (
            lambda a: {"groups_val": ["left", None, *["right"] * 238]},
            "attribute of every val image; 1 of 240 lack it",
        ),
    ],
)
def test_inputs_that_do_not_belong_together_are_named(data, change, message):
    with pytest.raises(ValueError, match=message):
        fitted({**data, **change(data)})


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        (
            {"select_by": "worst_group"},
            None,
            "select_by: worst_group .HSFMClassifier. needs the attribute of every val image",
        ),
        ({}, np.array(["rare", *["common"] * 799]), r"y: class 'rare' has 1 row, and holding out takes 2; give X_val"),
        *(
            ({"validation_fraction": share}, None, f"validation_fraction: {share!r} is not a number between 0 and 1")
            for share in (0, 1.0, "a fifth")
        ),
    ],
)
def test_faults_without_validation_rows_are_named(data, settings, y, message):
    with pytest.raises(ValueError, match=message):
        HSFMClassifier(**FEW, **settings).fit(data["X"], data["y"] if y is None else y)


def test_the_head_gives_the_same_predictions(data, splits):
    model = fitted(data)
    test = splits["test"]
    assert model.head_.weight.dtype == torch.float32
    assert np.array_equal(model.head_.predict(test.features).numpy(), model.predict(test.features.double().numpy()))
    X, y, background = three_classes("train", 0)
    three = HSFMClassifier(**FEW).fit(X, y, X, y, background)
    assert np.array_equal(three.head_.predict(torch.from_numpy(X)).numpy(), three.predict(X))


def test_every_setting_of_hsfm_is_a_parameter_with_its_default():
    model, parameters = HSFMClassifier(), inspect.signature(HSFMClassifier).parameters
    assert set(model.get_params()) == set(parameters)
    for name, value in Settings():
        assert name in parameters
        assert re.search(rf"^    {name} : ", HSFMClassifier.__doc__, re.MULTILINE), name
        if name not in ("inner_lr", "tune", "max_edit"):
            assert model.get_params()[name] == value == parameters[name].default
    assert model.tune is True
    with pytest.raises(TypeError, match="HSFMClassifier has no parameter 'inner_step'; there are C, device"):
        HSFMClassifier(inner_step=3)


def test_it_tunes_itself_on_held_out_halves(data):
    model = HSFMClassifier(tune=GRID | {"epochs": 30}, random_state=0).fit(**data)
    assert 0.5 < model.chosen_["held_out"] < 1
    assert abs(model.kept_epoch_ - model.chosen_["epoch"]) <= 10
    assert model.inner_lr_ == model.chosen_["inner_lr"]
    fixed = {name: model.chosen_[name] for name in ("inner_lr", "outer_lr", "epochs", "hard_per_class")}
    with pytest.raises(ValueError, match=f"inner_lr: {model.inner_lr_} is given, but tune chooses it; set tune=False"):
        HSFMClassifier(**fixed).fit(**data)
    with pytest.raises(ValueError, match="unknown key 'rate'"):
        HSFMClassifier(tune={"rate": 1}).fit(**data)
    X, y = data["X"][:40], np.array([0] * 38 + [1] * 2)
    with pytest.raises(ValueError, match="class 1 has 2 rows, and holding out takes 3"):
        HSFMClassifier(tune=GRID).fit(X, y)

"""Laws of every method's classifier, a new method's included."""

import pickle
import subprocess
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import hsfm
from hsfm.heads.head import Head
from hsfm.heads.known_methods import found
from hsfm.heads.supervision import fit_supervised
from tests.methods.small import needs_of

METHODS = {method.estimator: method for method in found().values() if not method.images}
# settings that take a moment, of whichever method has them
SMALL = {
    "grid": (1.0, 0.1), "fits": 2, "steps": 10, "epochs": 2, "inner_steps": 3, "support_steps": 2, "gammas": (4.0, 8.0),
    "penalties": (0.1, 0.01), "sizes": (10, 20), "upweights": (2.0, 20.0), "hard_per_class": 30, "random_state": 0,
    "tune": False,
}  # fmt: skip
AUTO = {"inner_lr": "auto", "max_edit": "auto", "tune": True}
ONE = {name: value[:1] if isinstance(value, tuple) else value for name, value in SMALL.items()}


def small(name, of=SMALL, **settings):
    """A method's classifier with few steps."""
    kind = getattr(hsfm, name)
    return kind(**{key: value for key, value in of.items() if key in kind().get_params()} | settings)


@pytest.fixture(scope="module")
def data(splits):
    """Arguments of `fit`."""
    train, val = splits["train"], splits["val"]
    return {
        "X": train.features.double().numpy(), "y": train.y.numpy(), "X_val": val.features.double().numpy(),
        "y_val": val.y.numpy(), "groups_val": val.attribute.numpy(), "groups": train.attribute.numpy(),
    }  # fmt: skip


@parametrize_with_checks(
    [small(name, ONE) for name in METHODS if name != "HSFMClassifier"]
)  # whose test is a file of its own
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_their_names():
    assert {"DFRClassifier", "GroupDROClassifier", "ClassScalingClassifier", "CBLLRClassifier"} < set(METHODS)
    assert len(METHODS) == sum(not method.images for method in found().values()), "two methods have one name"
    assert set(METHODS) < set(hsfm.__all__) <= set(dir(hsfm))
    with pytest.raises(AttributeError, match="DACClassifier"):
        hsfm.DACClassifier  # noqa: B018


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_a_parameter_with_its_default_and_text(name):
    """But for a step size by the number of columns, and for the setting that would ask for another network."""
    kind, settings = getattr(hsfm, name), import_module(f"hsfm.methods.{METHODS[name].name}").Settings()
    parameters = kind().get_params()
    expected = dict(settings) | {"AFRClassifier": {"on": "val"}}.get(name, {})
    assert {key: parameters[key] for key in expected} == expected | (
        {key: value for key, value in AUTO.items() if key in expected}
    )
    assert all(f"\n    {key} : " in kind.__doc__ for key in parameters)
    assert "configuration" not in kind.__doc__
    assert ("device" in parameters) == METHODS[name].device


@pytest.mark.parametrize("name", METHODS)
def test_the_head_is_the_methods_own_on_standardized_rows(name, splits, data):
    """With the groups that its settings allow; the oracle does all in one space, and its head is taken back by hand."""
    model = small(name, C=0.3).fit(**data)
    scaler = StandardScaler().fit(data["X"])
    train, val = (
        replace(splits[split], features=torch.tensor(scaler.transform(data[key]), dtype=torch.float32))
        for split, key in (("train", "X"), ("val", "X_val"))
    )

    def regression(C):
        model = LogisticRegression(C=C, max_iter=1000).fit(scaler.transform(data["X"]), data["y"])
        weight, bias = (torch.tensor(part, dtype=torch.float32) for part in (model.coef_, model.intercept_))
        return Head(torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2)

    erm = regression(0.3)
    val = replace(val, extra={"early_logits": regression(0.001).logits(val.features)})
    method = import_module(f"hsfm.methods.{METHODS[name].name}")
    given = {key: getattr(model, key) for key in method.Settings.model_fields} | {"select_by": model.select_by_}
    given |= {"inner_lr": model.inner_lr_} if "inner_lr" in given else {}
    given = {key: value for key, value in given.items() if (key, value) != ("max_edit", "auto")}
    settings = method.Settings(**given)
    fit, used = fit_supervised(method, train, val, erm, settings=settings, seeds=[0], **needs_of(method, erm, val))
    logits = fit.head[0].logits(val.features).numpy()
    np.testing.assert_allclose(
        model.decision_function(data["X_val"]), logits[:, 1] - logits[:, 0], rtol=1e-3, atol=1e-4
    )
    assert model.chosen_.keys() == fit.settings.keys()
    assert model.groups_used_ == ("classes" if used == "none" else "given")
    assert hasattr(model, "history_") == ("history" in fit.tables)
    assert model.head_.weight.shape == (2, 12)


@pytest.mark.parametrize("name", METHODS)
def test_without_groups_classes_are_the_groups(name, data):
    blind = {key: value for key, value in data.items() if not key.startswith("groups")}
    model = small(name).fit(**blind)
    assert (model.groups_used_, model.select_by_) == ("classes", "worst_class")
    by_class = small(name).fit(**blind, groups=data["y"], groups_val=data["y_val"])
    np.testing.assert_array_equal(model.coef_, by_class.coef_)
    with pytest.raises(ValueError, match=r"worst_group .* needs the attribute of every val image"):
        small(name, select_by="worst_group").fit(**blind)


@pytest.mark.parametrize(
    ("on", "missing"), [("val", "groups_val"), ("train", "groups"), ("both", "groups"), ("both", "groups_val")]
)
def test_groups_that_a_method_trains_on_are_asked_for(data, on, missing):
    with pytest.raises(
        ValueError, match=rf"{missing}: is None, but DFRClassifier trains on these groups \(on='{on}'\)"
    ):
        small("DFRClassifier", on=on).fit(**data | {missing: None})


def test_groups_that_a_method_reads_decide(data, splits):
    """DFR on train ignores validation's groups, and the other way round, but for the choice."""
    shuffled = np.random.default_rng(0).permutation
    for on, read, ignored in (("train", "groups", "groups_val"), ("val", "groups_val", "groups")):
        model = small("DFRClassifier", on=on, select_by="average").fit(**data)
        for part, same in ((ignored, True), (read, False)):
            other = small("DFRClassifier", on=on, select_by="average").fit(**data | {part: shuffled(data[part])})
            assert np.array_equal(other.coef_, model.coef_) == same


def test_groups_of_x_are_held_out_with_it(data):
    """A share of every group, of which each needs three rows."""
    part = {key: data[key] for key in ("X", "y", "groups")}
    model = small("DFRClassifier").fit(**part)
    assert (model.groups_used_, model.select_by_) == ("given", "worst_group")
    few = data["groups"].copy()
    few[:1] = 2
    with pytest.raises(
        ValueError, match=r"y: class \d has 1 row in a group, and holding out takes 3; give X_val or more"
    ):
        small("DFRClassifier").fit(**part | {"groups": few})
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[800, 799\]"):
        small("DFRClassifier").fit(**part | {"groups": few[1:]})


DTYPES = ["bool", "boolean", "bool[pyarrow]", "str", "string", "string[pyarrow]", "category", "Int64", "int64[pyarrow]"]


@pytest.mark.parametrize("kind", DTYPES)
def test_labels_and_groups_of_any_type(data, kind):
    """One column's type for all of them, as `convert_dtypes` leaves it, or the classes' own in y_val."""
    values = {"b": np.array([False, True]), "s": np.array(["land", "sea"]), "c": np.array(["land", "sea"])}
    values = values.get(kind[0], np.array([3, 5]))
    plain = {key: values[data[key]] for key in ("y", "y_val", "groups", "groups_val")}
    expected = small("DFRClassifier", on="both").fit(**data)
    typed = {key: pd.Series(column).astype(kind) for key, column in plain.items()}
    for given in (
        typed,
        typed | {"y_val": plain["y_val"], "groups": plain["groups"]},
        plain | {"y_val": typed["y_val"]},
    ):
        model = small("DFRClassifier", on="both").fit(**data | given)
        assert model.classes_.tolist() == values.tolist()
        assert model.predict(data["X_val"]).tolist() == values[expected.predict(data["X_val"])].tolist()
        np.testing.assert_array_equal(model.coef_, expected.coef_)


def test_a_missing_label_is_named(data):
    lacking = pd.Series(data["y"] == 1, dtype="boolean")
    lacking[3] = pd.NA
    with pytest.raises(ValueError, match="Input contains NaN"):
        small("DFRClassifier").fit(data["X"], lacking)
    groups = pd.Series(data["groups_val"], dtype="Int64")
    groups[3] = pd.NA
    with pytest.raises(ValueError, match="attribute of every val image; 1 of 240 lack it, first '3'"):
        small("LLRClassifier", select_by=None).fit(**data | {"groups_val": groups})


@pytest.mark.parametrize("name", METHODS)
def test_grid_search_over_its_settings(name, data):
    """Every value is used, numpy's own and lists included."""
    grids = {"fits": np.array([1, 2]), "penalties": [[0.1], [0.5]], "epochs": np.array([1, 2]), "grid": [[1.0], [0.1]],
             "steps": [5, 10], "rounds": [1, 2], "support_per_class": [4, 8]}  # fmt: skip
    model = small(name)
    key = next(key for key in grids if key in model.get_params())
    search = GridSearchCV(model, {key: grids[key]}, cv=2, error_score="raise").fit(data["X"], data["y"])
    assert search.best_params_[key] in list(grids[key])
    assert search.predict(data["X"]).shape == (800,)


@pytest.mark.parametrize("name", METHODS)
def test_in_a_pipeline(name, data):
    scaler = StandardScaler().fit(data["X"])
    steps = [("scale", StandardScaler()), ("head", small(name, standardize=False))]
    extra = {f"head__{key}": value for key, value in data.items() if key not in ("X", "y")}
    extra["head__X_val"] = scaler.transform(data["X_val"])
    model = Pipeline(steps).fit(data["X"], data["y"], **extra)
    expected = small(name).fit(**data).decision_function(data["X_val"])
    np.testing.assert_allclose(model.decision_function(data["X_val"]), expected, rtol=1e-3, atol=1e-4)


def test_they_are_pickled_by_name(data, tmp_path):
    """And read by a process that has imported nothing."""
    models = {name: small(name).fit(**data) for name in METHODS}
    assert all(np.array_equal(clone(model).fit(**data).coef_, model.coef_) for model in models.values())
    (tmp_path / "models").write_bytes(pickle.dumps((models, data["X_val"])))
    code = """import pickle, sys
models, X = pickle.loads(sys.stdin.buffer.read())
sys.stdout.buffer.write(pickle.dumps({name: model.predict(X) for name, model in models.items()}))"""
    sent = (tmp_path / "models").read_bytes()
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    for name, predicted in pickle.loads(done.stdout).items():
        assert np.array_equal(predicted, models[name].predict(data["X_val"])), name


def test_importing_the_package_loads_no_method():
    code = "import sys, hsfm; dir(hsfm); print(len(hsfm.__all__) > 20, {'torch', 'sklearn', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True set()"


@pytest.mark.parametrize("name", METHODS)
def test_settings_out_of_range_are_named(name, data):
    with pytest.raises(ValueError, match="select_by"):
        small(name, select_by="best").fit(**data)
    with pytest.raises(TypeError, match=f"{name} has no parameter 'stepz'; there are C, "):
        getattr(hsfm, name)(stepz=3)

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hsfm.heads.logistic_regression import balanced_rows, halves
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import balance
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(train, val, erm, *, seeds=(0,), **settings):
    return fit_supervised(balance, train, val, erm, settings=balance.Settings(**settings), seeds=seeds)


@pytest.mark.parametrize("on", ["val", "train"])
@pytest.mark.parametrize("by", ["class", "group"])
def test_reweighting_is_scikit_learns_balanced_class_weight(splits, erm_head, on, by):
    train, val = splits["train"], planted("val", [60, 30, 20, 50], seed=6)
    rows = {"train": train, "val": val}[on]
    head = fit(train, val, erm_head, on=on, by=by, how="reweight", penalties=(0.01,))[0].head[0]
    x, y = rows.features.numpy(), rows.y.numpy()
    part = (rows.y if by == "class" else rows.group).numpy()
    weight = len(y) / (len(np.unique(part)) * np.bincount(part))[part]
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1 / (0.01 * len(y)), max_iter=1000).fit(scaler.transform(x), y, weight)
    ours = head.logits(rows.features).softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(scaler.transform(x))[:, 1], atol=2e-3)


def test_subsampling_learns_from_as_many_rows_of_each_group(splits, erm_head):
    train, val = splits["train"], splits["val"]
    head = fit(train, val, erm_head, seeds=(3,), on="val", how="subsample", penalties=(0.01,))[0].head[0]
    rng, group = np.random.default_rng(3), val.group.numpy()
    fit_rows, _ = halves(group, rng)
    balanced_rows(group[fit_rows], rng)  # of the half that tries penalties
    drawn = balanced_rows(group, rng)
    x, y = val.features.numpy()[drawn], val.y.numpy()[drawn]
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1 / (0.01 * len(y)), max_iter=1000).fit(scaler.transform(x), y)
    ours = head.logits(val.features[drawn]).softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(scaler.transform(x))[:, 1], atol=2e-3)


@pytest.mark.parametrize(("on", "how"), [("train", "reweight"), ("train", "subsample"), ("val", "reweight")])
def test_by_group_raises_the_worst_group_and_by_class_does_not(splits, erm_head, on, how):
    train, val = splits["train"], planted("val", [200, 10, 10, 200], seed=6)
    erm = worst_group(erm_head, splits["test"])
    group, labels = fit(train, val, erm_head, by="group", on=on, how=how)
    assert labels == {"val": "training"}.get(on, on)
    assert worst_group(group.head, splits["test"]) > erm + 0.1
    same, labels = fit(train, val, erm_head, by="class", on=on, how=how)
    assert labels == "selection"
    assert worst_group(same.head, splits["test"]) < worst_group(group.head, splits["test"]) - 0.05


def test_groups_are_asked_of_the_split_that_teaches_alone(splits, erm_head):
    train, val = splits["train"].without_attributes(), splits["val"]
    assert fit(train, val, erm_head, by="group", on="val")[1] == "training"
    with pytest.raises(ValueError, match="Balance needs the attribute of every train image"):
        fit(train, val, erm_head, by="group", on="train")

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import cross_entropy

from hsfm.heads.supervision import fit_supervised
from hsfm.methods import evals
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(val, erm, *, seeds=(0,), **settings):
    return fit_supervised(evals, val, val, erm, settings=evals.Settings(**settings), seeds=seeds)


def test_it_learns_from_the_extremes_of_each_class_alone(splits, erm_head):
    val = splits["val"]
    loss = cross_entropy(erm_head.logits(val.features), val.y, reduction="none").numpy()
    head = fit(val, erm_head, sizes=(15,), penalties=(0.1,))[0].head[0]
    chosen = np.concatenate([
        members[np.argsort(loss[members])[[*range(15), *range(-15, 0)]]]
        for members in (np.flatnonzero(val.y.numpy() == label) for label in (0, 1))
    ])  # fmt: skip
    x, y = val.features.numpy(), val.y.numpy()
    scaler = StandardScaler().fit(x[chosen])
    theirs = LogisticRegression(C=1 / (0.1 * 60), max_iter=1000).fit(scaler.transform(x[chosen]), y[chosen])
    ours = head.logits(val.features).softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(scaler.transform(x))[:, 1], atol=2e-3)


def test_a_small_class_gives_each_of_its_rows_once():
    loss, y = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 9.0]), torch.tensor([0, 0, 0, 1, 1, 2])
    assert sorted(evals.extreme_rows(loss, y, 2).tolist()) == [0, 1, 3, 4, 5]
    assert sorted(evals.extreme_rows(loss, y, 1).tolist()) == [0, 1, 3, 4, 5]


def test_it_balances_groups_that_nobody_labelled(erm_head, splits):
    biased = planted("val", [200, 20, 20, 200], seed=5)
    loss = cross_entropy(erm_head.logits(biased.features), biased.y, reduction="none")
    chosen = biased.take(evals.extreme_rows(loss, biased.y, 20))
    minority = ((chosen.group == 1) | (chosen.group == 2)).float().mean()
    assert minority > 0.3, "of 9 % in all"
    result, labels = fit(biased, erm_head, seeds=(0, 1), sizes=(50,))
    assert labels == "selection"
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1


def test_on_balanced_validation_all_rows_serve_as_well(splits, erm_head):
    few, many = (fit(splits["val"], erm_head, sizes=(size,))[0].head for size in (10, 1000))
    assert worst_group(many, splits["test"]) > worst_group(few, splits["test"]), "the largest size takes every row"

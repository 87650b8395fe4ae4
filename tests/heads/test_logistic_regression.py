import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hsfm.heads.logistic_regression import L1Settings, balanced_rows, halves, regress, scaler_of, tune
from hsfm.heads.scorer import Scorer
from tests.conftest import planted

GRID = (1.0, 0.3, 0.1, 0.03)


def scikit_learns(c):
    return LogisticRegression(C=c, l1_ratio=1, solver="liblinear", max_iter=1000, random_state=0)


def test_c_is_the_first_best_on_the_half_that_evaluates():
    val = planted("val", [60, 25, 25, 60], seed=6)
    x, y, group = val.features.numpy(), val.y.numpy(), val.group.numpy()
    settings, scorer = L1Settings(grid=GRID), Scorer(val, "worst_group")
    fit, evaluation = halves(group, np.random.default_rng(0))
    learned, held_out = val.take(torch.from_numpy(fit)), torch.from_numpy(evaluation)
    chosen, predicted = tune(learned, val, held_out, settings=settings, scorer=scorer)
    scaler = StandardScaler().fit(x[fit])
    scores = []
    for c in GRID:
        model = scikit_learns(c).fit(scaler.transform(x[fit]), y[fit])
        correct = model.predict(scaler.transform(x[evaluation])) == y[evaluation]
        scores.append(min(correct[group[evaluation] == g].mean() for g in range(4)))
    assert chosen == GRID[scores.index(max(scores))]
    model = scikit_learns(chosen).fit(scaler.transform(x[fit]), y[fit])
    assert predicted[evaluation].tolist() == model.predict(scaler.transform(x[evaluation])).tolist()
    assert (predicted[fit] == -1).all()


def test_the_first_of_equal_cs_wins():
    val, told = planted("val", [20, 20, 20, 20], seed=0), []
    val.features[:, 1] = 10.0 * val.y  # every C gets all of it right
    given = {"settings": L1Settings(grid=(0.3, 1.0, 0.1)), "scorer": Scorer(val, "worst_class")}
    assert tune(val, val, torch.arange(80), **given, report=told.append)[0] == 0.3
    assert told == [1, 1, 1]


def test_scaler_is_scikit_learns_to_the_bit_but_for_wild_columns():
    x = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)
    assert (scaler_of(x).transform(x) == StandardScaler().fit(x).transform(x)).all()
    x[:, 2] = 0
    x[:2, 2] = 1e-3
    ours, theirs = scaler_of(x), StandardScaler().fit(x)
    assert (np.delete(ours.scale_, 2) == np.delete(theirs.scale_, 2)).all()
    assert ours.scale_[2] == pytest.approx(np.median(theirs.scale_), rel=0.05)


def test_the_second_half_of_a_shuffle_trains():
    order = np.random.default_rng(3).permutation(41)
    fit, evaluation = halves(np.arange(41) % 2, np.random.default_rng(3))
    assert evaluation.tolist() == order[:20].tolist()
    assert fit.tolist() == order[20:].tolist()


def test_halves_part_the_rows_and_hold_every_part():
    part = np.array([0] * 50 + [1] * 2)
    for seed in range(30):  # a plain shuffle leaves the small part out of a half about every second time
        fit, evaluation = halves(part, np.random.default_rng(seed))
        assert sorted([*fit, *evaluation]) == list(range(52))
        assert set(part[fit]) == set(part[evaluation]) == {0, 1}
    with pytest.raises(ValueError, match="group or class 1 has 1 validation image; two halves need at least 2"):
        halves(np.array([0, 0, 1]), np.random.default_rng(0))


def test_balanced_rows_are_as_many_of_each_part():
    part = np.array([2] * 10 + [5] * 3 + [9] * 30)
    rows = balanced_rows(part, np.random.default_rng(0))
    assert len(set(rows)) == 9
    assert np.unique(part[rows], return_counts=True)[1].tolist() == [3, 3, 3]


def test_a_row_in_another_part_changes_few_drawn_rows():
    part = np.repeat([0, 1, 2, 3], [250, 13, 13, 250])
    other = part.copy()
    other[0] = 1
    for seed in range(20):
        drawn, again = ({*balanced_rows(of, np.random.default_rng(seed))} for of in (part, other))
        assert len(drawn) == len(again) == 52
        assert len(drawn - again) <= 2
        few = np.where(part < 2, 0, 3)
        few[:2] = 1  # so rare that halves are stratified about every second time
        fits = [{*halves(of, np.random.default_rng(seed))[0]} for of in (few, part)]
        assert len(fits[0] - fits[1]) <= 30


def test_regression_does_not_depend_on_the_global_generator(splits):
    val = splits["val"]
    np.random.seed(0)  # noqa: NPY002 - the point is that it does not matter
    first = regress(val.features.numpy(), val.y.numpy(), 0.1)[0]
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(regress(val.features.numpy(), val.y.numpy(), 0.1)[0], first)

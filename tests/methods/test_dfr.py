import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsfm.core.metrics import accuracy_by, worst
from hsfm.methods.dfr import balanced_rows, fit_dfr, fit_llr, halves, regress, tune
from tests.conftest import planted

GRID = [1.0, 0.3, 0.1, 0.03]


def model(c):
    return LogisticRegression(C=c, l1_ratio=1, solver="liblinear", max_iter=1000, random_state=0)


def test_one_fit_is_scikit_learns_pipeline_on_the_same_rows():
    """With one C, one fit and balanced groups DFR is a standardized L1 regression on all of val."""
    val = planted("val", [40] * 4, seed=3)
    x, y = val.features.numpy(), val.y.numpy()
    head = fit_dfr(val, seeds=[0], grid=[0.1], fits=1, max_iter=1000)
    assert head.weight.shape == (1, 2, 12)
    # balancing equal groups only shuffles the rows within each; liblinear is told the same rows in DFR's order
    rng = np.random.default_rng(0)
    tune(x, y, val.group.numpy(), rng, [0.1], 1000, balance=True)
    rows = balanced_rows(val.group.numpy(), rng)
    assert sorted(rows) == list(range(160))
    scaler = StandardScaler().fit(x)
    theirs = model(0.1).fit(scaler.transform(x)[rows], y[rows])
    probability = torch.softmax(head[0].logits(val.features), dim=1)[:, 1].numpy()
    np.testing.assert_allclose(probability, theirs.predict_proba(scaler.transform(x))[:, 1], rtol=1e-4, atol=1e-6)
    assert (head[0].predict(val.features).numpy() == theirs.predict(scaler.transform(x))).all()


def test_llr_is_scikit_learns_pipeline_on_all_rows(splits):
    val = splits["val"]
    head = fit_llr(val, seeds=[0, 1], grid=[0.1], max_iter=1000)
    theirs = make_pipeline(StandardScaler(), model(0.1)).fit(val.features.numpy(), val.y.numpy())
    probability = torch.softmax(head[0].logits(val.features), dim=1)[:, 1].numpy()
    np.testing.assert_allclose(probability, theirs.predict_proba(val.features.numpy())[:, 1], rtol=1e-4, atol=1e-6)
    assert torch.equal(head.weight[0], head.weight[1]), "seeds that agree on C give one head"


def test_more_than_two_classes_are_one_against_the_rest():
    val = planted("val", [30] * 6, seed=4, classes=3)
    x, y = val.features.numpy(), val.y.numpy()
    head = fit_llr(val, seeds=[0], grid=[0.3], max_iter=1000)
    scaled = StandardScaler().fit_transform(x)
    theirs = OneVsRestClassifier(model(0.3)).fit(scaled, y)
    np.testing.assert_allclose(
        head[0].logits(val.features).numpy(), theirs.decision_function(scaled), rtol=1e-3, atol=1e-4
    )
    assert (head[0].predict(val.features).numpy() == theirs.predict(scaled)).all()
    dfr = fit_dfr(val, seeds=[0], grid=[0.3], fits=2, max_iter=1000)
    assert dfr.weight.shape == (1, 3, 12)


def test_the_heads_are_the_mean_over_fits():
    uneven = planted("val", [60, 20, 20, 60], seed=5)
    x, y, group = uneven.features.numpy(), uneven.y.numpy(), uneven.group.numpy()
    rng = np.random.default_rng(7)
    c = tune(x, y, group, rng, GRID, 1000, balance=True)
    scaler = StandardScaler().fit(x)
    models = [
        model(c).fit(scaler.transform(x)[rows], y[rows]) for rows in (balanced_rows(group, rng) for _ in range(3))
    ]
    w = np.mean([m.coef_[0] for m in models], axis=0)
    b = np.mean([m.intercept_[0] for m in models])
    head = fit_dfr(uneven, seeds=[7], grid=GRID, fits=3, max_iter=1000)[0]
    logits = head.logits(uneven.features)
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), scaler.transform(x) @ w + b, rtol=1e-3, atol=1e-4)


def test_c_is_the_first_best_on_the_judging_half(splits):
    val = planted("val", [60, 25, 25, 60], seed=6)
    x, y, group = val.features.numpy(), val.y.numpy(), val.group.numpy()
    chosen = tune(x, y, group, np.random.default_rng(0), GRID, 1000, balance=True)
    rng = np.random.default_rng(0)
    fit, evaluation = halves(group, rng)
    fit = fit[balanced_rows(group[fit], rng)]
    scaler = StandardScaler().fit(x[fit])
    scores = []
    for c in GRID:
        correct = (
            model(c).fit(scaler.transform(x[fit]), y[fit]).predict(scaler.transform(x[evaluation])) == y[evaluation]
        )
        scores.append(min(correct[group[evaluation] == g].mean() for g in range(4)))
    assert chosen == GRID[scores.index(max(scores))]


def test_the_first_of_equal_cs_wins():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = np.concatenate([10.0 * y[:, None], rng.normal(size=(80, 2))], axis=1)  # every C gets all of it right
    assert tune(x, y, y, np.random.default_rng(0), [0.3, 1.0, 0.1], 1000, balance=False) == 0.3
    assert tune(x, y, y, np.random.default_rng(0), [1.0, 0.1, 0.3], 1000, balance=False) == 1.0


def test_the_second_half_of_a_shuffle_trains():
    order = np.random.default_rng(3).permutation(41)
    fit, evaluation = halves(np.arange(41) % 2, np.random.default_rng(3))
    assert evaluation.tolist() == order[:20].tolist()
    assert fit.tolist() == order[20:].tolist()


def test_small_and_empty_groups_are_named(caplog):
    kw = {"seeds": [0], "grid": [0.1], "fits": 1, "max_iter": 1000}
    one = planted("val", [30, 1, 30, 30], seed=0)
    with pytest.raises(ValueError, match="DFR: group 'class 0, right' has 1 image in planted val; tuning C needs"):
        fit_dfr(one, **kw)
    with caplog.at_level(logging.WARNING, "hsfm"):
        fit_dfr(planted("val", [30, 0, 30, 30], seed=0), **kw)
    assert "DFR: group 'class 0, right' has no image in planted val and is left out" in caplog.text


def test_nothing_fits_on_the_test_split(splits):
    with pytest.raises(ValueError, match="DFR was given the test split"):
        fit_dfr(splits["test"], seeds=[0], grid=[0.1], fits=1, max_iter=10)
    with pytest.raises(ValueError, match="LLR was given the test split"):
        fit_llr(splits["test"], seeds=[0], grid=[0.1], max_iter=10)


def test_halves_part_the_rows_and_hold_every_part():
    part = np.array([0] * 50 + [1] * 2)
    for seed in range(30):  # a plain shuffle leaves the small part out of a half about every second time
        fit, evaluation = halves(part, np.random.default_rng(seed))
        assert sorted([*fit, *evaluation]) == list(range(52))
        assert set(part[fit]) == set(part[evaluation]) == {0, 1}
    with pytest.raises(ValueError, match="group or class 1 has 1 validation image; tuning C needs at least 2"):
        halves(np.array([0, 0, 1]), np.random.default_rng(0))


def test_balanced_rows_are_as_many_of_each_part():
    part = np.array([2] * 10 + [5] * 3 + [9] * 30)
    rows = balanced_rows(part, np.random.default_rng(0))
    assert len(set(rows)) == 9
    assert np.unique(part[rows], return_counts=True)[1].tolist() == [3, 3, 3]


def test_both_beat_erm_and_dfr_does_not_need_balanced_validation(splits, erm_head):
    test = splits["test"]

    def worst_group(head):
        return float(worst(accuracy_by(head.predict(test.features) == test.y, test.group, 4)).min())

    erm = worst_group(erm_head)
    kw = {"seeds": [0, 1], "grid": GRID, "max_iter": 1000}
    assert worst_group(fit_dfr(splits["val"], fits=5, **kw)) > erm + 0.1
    assert worst_group(fit_llr(splits["val"], **kw)) > erm + 0.1
    biased = planted("val", [120, 8, 8, 120], seed=8)
    assert worst_group(fit_dfr(biased, fits=5, **kw)) > worst_group(fit_llr(biased, **kw)) + 0.05


def test_seeds_repeat_and_differ(splits):
    kw = {"grid": GRID, "fits": 2, "max_iter": 1000}
    uneven = planted("val", [60, 20, 20, 60], seed=5)
    first, second = fit_dfr(uneven, seeds=[0, 1], **kw), fit_dfr(uneven, seeds=[1, 0], **kw)
    assert torch.equal(first.weight[0], second.weight[1])
    assert not torch.equal(first.weight[0], first.weight[1])


def test_llr_reads_no_group_label(splits):
    val = splits["val"]
    blind = replace(val, attribute=torch.full_like(val.attribute, -1))
    kw = {"seeds": [0], "grid": GRID, "max_iter": 1000}
    assert torch.equal(fit_llr(blind, **kw).weight, fit_llr(val, **kw).weight)
    with pytest.raises(ValueError, match="DFR needs the attribute of every val image; 240 of 240 lack it"):
        fit_dfr(blind, fits=1, **kw)


def test_bad_settings_are_named(splits):
    with pytest.raises(ValueError, match=r"grid: \[0.1, -1.0\]"):
        fit_llr(splits["val"], seeds=[0], grid=[0.1, -1.0], max_iter=10)
    with pytest.raises(ValueError, match="fits: 0"):
        fit_dfr(splits["val"], seeds=[0], grid=[0.1], fits=0, max_iter=10)
    with pytest.raises(ValueError, match=r"seeds: \[0, 0\]"):
        fit_llr(splits["val"], seeds=[0, 0], grid=[0.1], max_iter=10)


def test_regression_does_not_depend_on_the_global_generator(splits):
    val = splits["val"]
    np.random.seed(0)  # noqa: NPY002 - the point is that it does not matter
    first = regress(val.features.numpy(), val.y.numpy(), 0.1, 1000)[0]
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(regress(val.features.numpy(), val.y.numpy(), 0.1, 1000)[0], first)

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from hsfm.heads.held_out import joined
from hsfm.heads.logistic_regression import balanced_rows, halves, tune
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import dfr, llr
from tests.conftest import planted
from tests.methods.small import scikit_learns, worst_group

GRID = (1.0, 0.3, 0.1, 0.03)


def fit(val, erm, *, seeds=(0,), method=dfr, **settings):
    return fit_supervised(method, val, val, erm, settings=method.Settings(**settings), seeds=seeds)[0]


def test_the_head_is_the_mean_over_fits(erm_head):
    uneven = planted("val", [60, 20, 20, 60], seed=5)
    x, y, group = uneven.features.numpy(), uneven.y.numpy(), uneven.group.numpy()
    rng, scorer = np.random.default_rng(7), Scorer(uneven, "worst_group")
    fit_rows, held_out = halves(group, rng)
    half = uneven.take(torch.from_numpy(fit_rows[balanced_rows(group[fit_rows], rng)]))
    c, _ = tune(half, uneven, torch.from_numpy(held_out), settings=dfr.Settings(grid=GRID), scorer=scorer)
    scaled = StandardScaler().fit_transform(x)
    of_fits = [balanced_rows(group, rng) for _ in range(3)]
    models = [scikit_learns(c).fit(scaled[rows], y[rows]) for rows in of_fits]
    w = np.mean([m.coef_[0] for m in models], axis=0)
    b = np.mean([m.intercept_[0] for m in models])
    result = fit(uneven, erm_head, seeds=(7,), grid=GRID, fits=3)
    logits = result.head[0].logits(uneven.features)
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), scaled @ w + b, rtol=1e-3, atol=1e-4)
    assert result.settings == {"C": [c]}


def test_it_beats_erm_and_does_not_need_balanced_validation(splits, erm_head):
    test, biased = splits["test"], planted("val", [120, 8, 8, 120], seed=8)
    how = {"seeds": (0, 1), "grid": GRID}
    assert worst_group(fit(splits["val"], erm_head, fits=5, **how).head, test) > worst_group(erm_head, test) + 0.1
    blind = fit(biased, erm_head, method=llr, **how)
    assert worst_group(fit(biased, erm_head, fits=5, **how).head, test) > worst_group(blind.head, test) + 0.05


def test_what_it_cannot_or_may_not_fit_on_is_refused(splits, erm_head):
    blind = splits["val"].without_attributes()
    with pytest.raises(ValueError, match="DFR needs the attribute of every val image; 240 of 240 lack it"):
        fit(blind, erm_head, select_by="worst_class")
    with pytest.raises(ValueError, match="group or class 1 has 1 validation image; two halves need at least 2"):
        fit(planted("val", [30, 1, 30, 30], seed=0), erm_head)


@pytest.mark.parametrize("on", ["train", "both"])
def test_it_learns_from_balanced_rows_of_train(splits, erm_head, on):
    train, val = splits["train"], splits["val"]
    settings = dfr.Settings(on=on, grid=(0.3,), fits=1)
    head = fit_supervised(dfr, train, val, erm_head, settings=settings, seeds=(2,))[0].head[0]
    rows, rng = train if on == "train" else joined(train, val), np.random.default_rng(2)
    learned = train
    if on == "both":
        learned = joined(train, val.take(torch.from_numpy(halves(val.group.numpy(), rng)[0])))
    balanced_rows(learned.group.numpy(), rng)  # those that try C
    drawn = balanced_rows(rows.group.numpy(), rng)
    assert len(drawn) == 4 * (10 if on == "train" else 70)
    scaled = StandardScaler().fit_transform(rows.features.numpy())
    model = scikit_learns(0.3).fit(scaled[drawn], rows.y.numpy()[drawn])
    logits = head.logits(rows.features).numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], model.decision_function(scaled), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("on", "lacking"), [("train", "train"), ("both", "val")])
def test_attributes_are_asked_of_the_splits_that_teach(splits, erm_head, on, lacking):
    given = {**splits, lacking: splits[lacking].without_attributes()}
    settings = dfr.Settings(on=on, select_by="average")
    with pytest.raises(ValueError, match=f"DFR needs the attribute of every {lacking} image"):
        fit_supervised(dfr, given["train"], given["val"], erm_head, settings=settings, seeds=(0,))

from dataclasses import replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.idfr.fallback import fit_afr, shrunk

HOW = {"gammas": (0.0, 4.0), "called": "IDFR"}


def test_from_a_head_of_zeros_it_is_scikit_learns_regression(splits):
    val = splits["val"]
    x, y = val.features.numpy().astype(float), val.y.numpy()
    weight = np.random.default_rng(0).uniform(0.5, 2, len(y))
    both = np.stack([np.ones(len(y)), weight])  # of which neither disturbs the other
    ours = shrunk(x, y, np.zeros((len(y), 2)), both, [1.0, 0.1])[1][1]
    # two rows of opposite sign carry half the penalty of one of twice their length
    model = LogisticRegression(C=2 / (0.1 * weight.sum()), tol=1e-10, max_iter=5000).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose((ours[:, 1] - ours[:, 0])[:-1], model.coef_[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours[-1, 1] - ours[-1, 0], model.intercept_[0], rtol=1e-3, atol=1e-4)


def test_a_strong_pull_leaves_erms_weights(splits, erm_head):
    val = splits["val"]
    scorer = Scorer(val, "worst_class")
    held, free = (fit_afr(val, erm_head, penalties=(p,), seeds=(0, 1), scorer=scorer, **HOW).head for p in (1e6, 0.1))
    torch.testing.assert_close(held.weight, erm_head.weight.expand(2, -1, -1), rtol=1e-3, atol=1e-4)
    assert (free.weight - erm_head.weight).abs().max() > 0.05


def test_more_features_than_rows_change_nothing_but_the_axes(splits, erm_head):
    val = splits["val"].take(torch.arange(30))
    wide = torch.cat([val.features, torch.zeros(30, 40)], 1)
    scorer = Scorer(val, "worst_class")
    narrow = fit_afr(val, erm_head, penalties=(0.1,), seeds=(0,), scorer=scorer, **HOW).head
    pad = torch.zeros(2, 40)
    padded = Head(torch.cat([erm_head.weight, pad], 1), erm_head.bias)
    other = fit_afr(replace(val, features=wide), padded, penalties=(0.1,), seeds=(0,), scorer=scorer, **HOW).head
    torch.testing.assert_close(other.weight[..., :12], narrow.weight, rtol=1e-3, atol=1e-3)
    assert not other.weight[..., 12:].any()

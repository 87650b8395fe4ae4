import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsfm.heads.head import Head
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import jtt
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(val, erm, *, seeds=(0,), **settings):
    return fit_supervised(jtt, val, val, erm, settings=jtt.Settings(**settings), seeds=seeds)


def test_an_error_counts_as_often_as_its_row_repeated(splits, erm_head):
    val = splits["val"]
    head = fit(val, erm_head, upweights=(4,), penalties=(0.01,))[0].head[0]
    x, y = val.features.numpy(), val.y.numpy()
    wrong = (erm_head.predict(val.features) != val.y).numpy()
    assert 10 < wrong.sum() < len(y) / 2
    repeated = np.repeat(np.arange(len(y)), np.where(wrong, 4, 1))
    scaler = StandardScaler().fit(x)
    theirs = make_pipeline(scaler, LogisticRegression(C=1 / (0.01 * len(repeated)), max_iter=1000))
    theirs[1].fit(scaler.transform(x)[repeated], y[repeated])
    ours = head.logits(val.features).softmax(1)[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(x)[:, 1], atol=2e-3)


def test_it_raises_the_worst_group_where_errors_are_minority_rows(erm_head, splits):
    biased = planted("val", [200, 20, 20, 200], seed=5)
    result, labels = fit(biased, erm_head, seeds=(0, 1))
    assert labels == "selection"
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.05
    rare = planted("val", [200, 10, 10, 200], seed=5)
    once, often = (fit(rare, erm_head, upweights=(w,), penalties=(0.01,))[0].head for w in (1, 20))
    assert worst_group(often, splits["test"]) > worst_group(once, splits["test"]) + 0.05


def test_errors_at_random_bring_nothing():
    val = planted("val", [60, 60, 60, 60], seed=3)
    test = planted("test", [150, 150, 150, 150], seed=4)
    core = torch.zeros(2, 12)
    core[0, 1] = core[1, 2] = 1.0
    right = Head(core, torch.zeros(2))  # a head on the class's own features, whose errors are noise
    assert worst_group(fit(val, right)[0].head, test) < worst_group(right, test) + 0.05

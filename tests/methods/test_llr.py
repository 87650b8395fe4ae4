import numpy as np
import torch
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hsfm.heads.supervision import fit_supervised
from hsfm.methods import llr
from tests.conftest import planted
from tests.methods.small import scikit_learns, worst_group


def fit(val, erm, *, seeds=(0,), **settings):
    return fit_supervised(llr, val, val, erm, settings=llr.Settings(**settings), seeds=seeds)


def test_it_is_scikit_learns_pipeline_on_all_rows(splits, erm_head):
    val = splits["val"]
    result, labels = fit(val, erm_head, seeds=(0, 1), grid=(0.1,))
    theirs = make_pipeline(StandardScaler(), scikit_learns(0.1)).fit(val.features.numpy(), val.y.numpy())
    probability = torch.softmax(result.head[0].logits(val.features), dim=1)[:, 1].numpy()
    np.testing.assert_allclose(probability, theirs.predict_proba(val.features.numpy())[:, 1], rtol=1e-4, atol=1e-6)
    assert torch.equal(result.head.weight[0], result.head.weight[1]), "seeds that agree on C give one head"
    assert labels == "none"


def test_more_than_two_classes_are_one_against_the_rest(erm_head):
    val = planted("val", [30] * 6, seed=4, classes=3)
    head = fit(val, erm_head, grid=(0.3,))[0].head
    scaled = StandardScaler().fit_transform(val.features.numpy())
    theirs = OneVsRestClassifier(scikit_learns(0.3)).fit(scaled, val.y.numpy())
    np.testing.assert_allclose(
        head[0].logits(val.features).numpy(), theirs.decision_function(scaled), rtol=1e-3, atol=1e-4
    )
    assert (head[0].predict(val.features).numpy() == theirs.predict(scaled)).all()


def test_it_raises_the_worst_group_and_says_what_it_chose(splits, erm_head):
    result, _ = fit(splits["val"], erm_head, seeds=(0, 1), grid=(1.0, 0.3, 0.1, 0.03))
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1
    assert set(result.settings["C"]) <= {1.0, 0.3, 0.1, 0.03}
    assert result.chosen_by == "C by the worst class of one half of validation"

import torch

from hsfm.heads.supervision import fit_supervised
from hsfm.methods import cb_llr, dfr, llr
from tests.conftest import planted
from tests.methods.small import worst_group

HOW = {"grid": (1.0, 0.1), "fits": 3}


def fit(method, val, erm, **settings):
    return fit_supervised(method, val, val, erm, settings=method.Settings(**settings), seeds=(0, 1))


def test_it_is_dfr_where_the_groups_are_the_classes(splits, erm_head):
    val = splits["val"]
    one_attribute = planted("val", [60, 0, 60, 0], seed=1)
    ours, labels = fit(cb_llr, one_attribute, erm_head, **HOW)
    theirs, _ = fit(dfr, one_attribute, erm_head, **HOW, select_by="worst_class")
    assert torch.equal(ours.head.weight, theirs.head.weight)
    assert labels == "none"
    assert not torch.equal(fit(cb_llr, val, erm_head, **HOW)[0].head.weight, ours.head.weight)


def test_it_gains_where_classes_are_not_of_one_size_and_not_elsewhere(splits, erm_head):
    test = splits["test"]
    uneven = planted("val", [150, 150, 12, 12], seed=9)
    balanced, plain = (fit(method, uneven, erm_head, grid=(1.0,))[0].head for method in (cb_llr, llr))
    assert worst_group(balanced, test) > worst_group(plain, test) + 0.05
    even = splits["val"]
    balanced, plain = (fit(method, even, erm_head, grid=(0.1,))[0].head for method in (cb_llr, llr))
    assert abs(worst_group(balanced, test) - worst_group(plain, test)) < 0.02

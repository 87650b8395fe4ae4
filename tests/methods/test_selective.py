from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from hsfm.heads.fit import NotApplicable
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import selective
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(val, erm, *, seeds=(0,), **settings):
    return fit_supervised(selective, val, val, erm, settings=selective.Settings(**settings), seeds=seeds)


def chosen(val, erm, size):
    """Rows that the method finetunes on, by torch's own divergence."""
    early, final = (Categorical(logits=z) for z in (val.extra["early_logits"], erm.logits(val.features)))
    return kl_divergence(early, final).topk(size).indices


def minority(val, rows):
    return float((val.y[rows] != val.attribute[rows]).double().mean())


@pytest.fixture
def biased():
    """Validation of which 9 % are minority."""
    return planted("val", [200, 20, 20, 200], seed=5)


def test_disagreement_is_torchs_divergence_in_the_authors_direction():
    generator = torch.Generator().manual_seed(0)
    early, final = (4 * torch.randn(50, 3, generator=generator) for _ in range(2))
    found = selective.disagreement(early, final)
    torch.testing.assert_close(found, kl_divergence(Categorical(logits=early), Categorical(logits=final)))
    torch.testing.assert_close(found, nn.KLDivLoss(reduction="none")(final.log_softmax(1), early.softmax(1)).sum(1))
    certain = torch.tensor([[200.0, -200.0]])
    assert selective.disagreement(-certain, certain).item() == 400, "no logarithm of a probability that rounds to 0"


def test_the_head_is_erms_layer_after_torchs_sgd_on_the_rows_that_differ_most(biased, erm_head):
    head = fit(biased, erm_head, sizes=(30,), lrs=(0.01,), steps=40)[0].head[0]
    rows = chosen(biased, erm_head, 30)
    x, y = biased.features[rows], biased.y[rows]
    layer = nn.Linear(12, 2)
    layer.load_state_dict({"weight": erm_head.weight, "bias": erm_head.bias})
    loss = nn.CrossEntropyLoss(weight=1 / torch.bincount(y))  # a weighted mean
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(40):
        optimizer.zero_grad()
        loss(layer(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(head.weight, layer.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.bias, layer.bias.detach(), rtol=1e-4, atol=1e-6)
    assert (head.weight - erm_head.weight).abs().max() > 0.1


def test_rows_of_one_class_alone_are_enough(biased, erm_head):
    ones = biased.take((biased.y == 1).nonzero()[:10, 0])
    assert selective.finetuned(ones, erm_head, 0.01, 5).weight.isfinite().all()


def mean_worst_group(erm, test, early=None):
    """Over five draws of biased validation. early: gives the early logits of one, by default the planted ones."""
    found = []
    for seed in range(5, 10):
        val = planted("val", [200, 20, 20, 200], seed=seed)
        val = replace(val, extra={"early_logits": early(val)}) if early else val
        result, labels = fit(val, erm, sizes=(20,), lrs=(0.01,))
        assert labels == "selection"
        found.append(worst_group(result.head, test))
    return np.mean(found)


def test_an_early_network_that_goes_by_the_attribute_shows_the_minority(biased, splits, erm_head):
    assert minority(biased, chosen(biased, erm_head, 20)) > 0.9
    assert mean_worst_group(erm_head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1


def test_where_early_and_final_network_agree_nothing_is_told_apart(biased, splits, erm_head):
    final = erm_head.logits(biased.features)
    assert (selective.disagreement(final, final) == 0).all()
    same = mean_worst_group(erm_head, splits["test"], lambda val: erm_head.logits(val.features))
    assert same < worst_group(erm_head, splits["test"]) + 0.05
    assert same < mean_worst_group(erm_head, splits["test"]) - 0.1


def test_without_early_logits_it_does_not_apply(splits, erm_head):
    bare = replace(splits["val"], extra={})
    with pytest.raises(NotApplicable, match="SELF needs early_logits of every val image: set erm: early_epoch, or"):
        fit(bare, erm_head)

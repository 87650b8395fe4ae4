import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.hard_set import build
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm.inner_loop import follow
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.train import train


def trained(tr, val, head, epochs):
    settings = Settings(
        support_per_class=24, inner_steps=5, inner_lr=1e-2, outer_lr=0.1, support_steps=1, epochs=epochs
    )  # fmt: skip
    return train(tr, val, head, settings, seeds=[3], hard_per_class=30, scorer=Scorer(val, "worst_group"))


def test_steps_are_those_of_autograd(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    loop = follow(
        erm_head, tr.features[:50], tr.y[:50], val.features[:20], val.y[:20], steps=4, lr=0.05
    )  # fmt: skip
    weight, bias = (tensor.clone().requires_grad_() for tensor in (erm_head.weight, erm_head.bias))
    for step in range(5):
        head = Head(weight, bias)
        loss = cross_entropy(head.logits(tr.features[:50]), tr.y[:50])
        hard = cross_entropy(head.logits(val.features[:20]), val.y[:20])
        change = (weight - erm_head.weight).norm() / erm_head.weight.norm()
        found = torch.stack([loop.support_loss[step], loop.hard_loss[step], loop.change[step]])
        torch.testing.assert_close(found, torch.stack([loss, hard, change]), rtol=1e-4, atol=1e-6)
        by_weight, by_bias = torch.autograd.grad(loss, (weight, bias))
        weight, bias = ((t - 0.05 * g).detach().requires_grad_() for t, g in ((weight, by_weight), (bias, by_bias)))
    assert (loop.support_loss.diff() < 0).all()
    assert loop.change[0] == 0


def test_its_last_loss_on_the_hard_set_is_the_trials_outer_loss(splits, erm_head):
    """Of the first epoch and of the one after the kept state, with one meta-gradient step per epoch."""
    tr, val = splits["train"], splits["val"]
    first = trained(tr, val, erm_head, epochs=1)
    outer_loss = trained(tr, val, erm_head, epochs=2).history["outer_loss"]
    after = first.head[0]
    for epoch, head, support in ((1, erm_head, tr.features[first.support_rows[0]]), (2, after, first.support_after[0])):
        hard = build(head, val, per_class=30).chosen
        loop = follow(
            head, support, tr.y[first.support_rows[0]], val.features[hard], val.y[hard], steps=5, lr=1e-2
        )  # fmt: skip
        assert float(loop.hard_loss[-1]) == pytest.approx(outer_loss.iloc[epoch - 1], rel=1e-4)

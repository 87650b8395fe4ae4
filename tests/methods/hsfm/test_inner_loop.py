import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.head import Head
from hsfm.methods.hsfm.inner_loop import follow


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

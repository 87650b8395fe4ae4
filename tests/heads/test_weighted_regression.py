import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.weighted_regression import regress
from tests.conftest import planted


def objective_gradient(head, rows, weight, penalty):
    """Of the stated objective at a head, by autograd; the parameters of two classes are one row."""
    x, y, weight = rows.features.double(), rows.y, torch.tensor(weight)
    mean, spread = x.mean(0), x.std(0, correction=0)
    w, b = head.weight.double() * spread, head.bias.double() + head.weight.double() @ mean
    if rows.n_classes == 2:
        w, b = (w[1:] - w[:1]), (b[1:] - b[:1])
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    logits = (x - mean) / spread @ w.T + b
    if rows.n_classes == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    loss = (weight * cross_entropy(logits, y, reduction="none")).sum() / weight.sum() + penalty / 2 * w.square().sum()
    loss.backward()
    return float(max(w.grad.abs().max(), b.grad.abs().max()))


def test_the_heads_are_stationary_points_of_the_objective():
    rng = np.random.default_rng(0)
    for classes, counts in ((2, [40, 20, 20, 40]), (3, [20, 15, 10, 20, 15, 30])):
        rows = planted("val", counts, seed=1, classes=classes)
        weight = rng.uniform(0.2, 3, len(rows.y))
        heads = regress(rows, weight, (0.1, 0.01))
        assert heads.weight.shape[:2] == (2, classes)
        for number, penalty in enumerate((0.1, 0.01)):
            assert objective_gradient(heads[number], rows, weight, penalty) < 1e-3
            assert objective_gradient(heads[number], rows, np.ones_like(weight), penalty) > 2e-3, "the weights count"


def test_only_the_ratios_of_weights_count():
    rows = planted("val", [30, 10, 10, 30], seed=2)
    weight = np.where(rows.group.numpy() % 3 == 0, 1.0, 3.0)
    ours, larger, other = (regress(rows, w, (0.01,)).weight for w in (weight, 5 * weight, weight[::-1].copy()))
    torch.testing.assert_close(ours, larger, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ours, other, atol=1e-2)

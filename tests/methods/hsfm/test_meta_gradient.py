import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.head import Head
from hsfm.methods.hsfm.meta_gradient import meta_gradient
from hsfm.methods.hsfm.outer_loop import follow
from tests.methods.hsfm import autograd_loop

CASES = [(2, [4, 4]), (2, [1, 6]), (2, [9, 8]), (3, [3, 2, 5]), (5, [1, 2, 3, 1, 1])]
FORMS = ["dual", "primal", "auto"]


def problem(classes: int, sizes: list[int], *, trials: int = 3, d: int = 6, m: int = 10):
    """Heads, ragged supports with labels of their own, and hard sets of several trials in float64."""
    g = torch.Generator().manual_seed(classes * 100 + len(sizes))
    y = torch.repeat_interleave(torch.arange(classes), torch.tensor(sizes))
    support_y = torch.stack([y, y.flip(0), (y + 1) % classes])[:trials]

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    hard_y = torch.arange(m) % classes
    return (
        normal(trials, classes, d), normal(trials, classes), normal(trials, len(y), d), support_y,
        normal(trials, m, d), hard_y, torch.tensor([0.3, 0.05, 0.9], dtype=torch.float64)[:trials],
    )  # fmt: skip


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("classes", "sizes"), CASES)
def test_against_autograd(classes, sizes, steps, form, first_order):
    *tensors, lr = problem(classes, sizes)
    weight, bias, support, support_y, hard, hard_y = tensors
    outer_loss, by_support = meta_gradient(*tensors, steps=steps, lr=lr, form=form, first_order=first_order)
    for i in range(3):
        loss, gradient = autograd_loop.meta_gradient(
            Head(weight[i], bias[i]), support[i], support_y[i], hard[i], hard_y,
            steps=steps, lr=float(lr[i]), first_order=first_order,
        )  # fmt: skip
        assert float(outer_loss[i]) == pytest.approx(float(loss), rel=1e-12)
        assert float((by_support[i] - gradient).norm() / gradient.norm()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("classes", "sizes"), [CASES[1], CASES[3]])
def test_against_finite_differences(classes, sizes, form):
    """The oracle adapts with torch's own SGD, so that nothing of the package is in it."""
    *tensors, lr = problem(classes, sizes, trials=1)
    weight, bias, support, support_y, hard, hard_y = tensors

    def outer(h):
        layer = torch.nn.Linear(6, classes).double()
        layer.load_state_dict({"weight": weight[0], "bias": bias[0]})
        optimizer = torch.optim.SGD(layer.parameters(), lr=float(lr[0]))
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(layer(h), support_y[0]).backward()
            optimizer.step()
        with torch.no_grad():
            return float(cross_entropy(layer(hard[0]), hard_y))

    outer_loss, by_support = meta_gradient(*tensors, steps=4, lr=lr, form=form)
    assert float(outer_loss[0]) == pytest.approx(outer(support[0]), rel=1e-12)
    numeric, step = torch.zeros_like(support[0]), 1e-5
    for i in range(support.shape[1]):
        for j in range(6):
            up, down = support[0].clone(), support[0].clone()
            up[i, j] += step
            down[i, j] -= step
            numeric[i, j] = (outer(up) - outer(down)) / (2 * step)
    assert by_support.abs().max() > 1e-3
    torch.testing.assert_close(by_support[0], numeric, rtol=1e-6, atol=1e-9)


def test_the_form_with_fewer_operations_is_taken(monkeypatch):
    import hsfm.methods.hsfm.meta_gradient as module

    taken = []
    for name in ("_dual", "_primal"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original, n=name: taken.append(n) or f(*a))
    y, lr = torch.tensor([0, 1] * 8), torch.tensor([0.1])
    for d, steps in ((200, 15), (3, 1)):
        w, b, h = torch.zeros(1, 2, d), torch.zeros(1, 2), torch.randn(1, 16, d)
        meta_gradient(w, b, h, y[None], h, y, steps=steps, lr=lr)
    assert taken == ["_dual", "_primal"]


def test_steps_are_those_of_autograd(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    loop = follow(erm_head, tr.features[:50], tr.y[:50], val.features[:20], val.y[:20], steps=4, lr=0.05)
    weight, bias = (tensor.clone().requires_grad_() for tensor in (erm_head.weight, erm_head.bias))
    for step in range(5):
        head = Head(weight, bias)
        loss = cross_entropy(head.logits(tr.features[:50]), tr.y[:50])
        change = (weight - erm_head.weight).norm() / erm_head.weight.norm()
        found = loop["support_loss"][step], loop["change"][step]
        assert found == pytest.approx((float(loss.detach()), float(change.detach())), rel=1e-4, abs=1e-6)
        by_weight, by_bias = torch.autograd.grad(loss, (weight, bias))
        weight, bias = ((t - 0.05 * g).detach().requires_grad_() for t, g in ((weight, by_weight), (bias, by_bias)))
    hard_loss = float(cross_entropy(head.logits(val.features[:20]), val.y[:20]).detach())
    assert loop["outer_loss"] == pytest.approx(hard_loss, rel=1e-4)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize(("classes", "sizes"), [CASES[1], CASES[3]])
def test_rows_of_all_trials_with_weights_are_those_rows_of_each(classes, sizes, form):
    weight, bias, support, support_y, *_, lr = problem(classes, sizes)
    pool = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pool_y = torch.arange(30) % classes
    rows = torch.stack([torch.cat([(pool_y == c).nonzero()[i : 2 + i, 0] for c in range(classes)]) for i in range(3)])
    weights = torch.zeros(3, 30, dtype=torch.float64).scatter_(1, rows, 1 / rows.shape[1])
    same = {"steps": 4, "lr": lr, "form": form}
    own = meta_gradient(weight, bias, support, support_y, pool[rows], pool_y[rows[0]], **same)
    shared = meta_gradient(weight, bias, support, support_y, pool, pool_y, weights=weights, **same)
    for of_own, of_shared in zip(own, shared, strict=True):
        torch.testing.assert_close(of_own, of_shared)

"""The compiled epoch against autograd and the torch path, and what happens where there is none."""

import sys

import numpy as np
import pytest
import torch

from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm import kernels, outer_loop
from hsfm.methods.hsfm.compiled import CompiledEpoch
from hsfm.methods.hsfm.meta_gradient import meta_gradient
from hsfm.methods.hsfm.outer_loop import Trial
from hsfm.methods.hsfm.train import train_trials
from tests.methods.hsfm import autograd_loop
from tests.methods.hsfm.test_meta_gradient import problem
from tests.methods.small import settings_of

FORMS = ["dual", "primal"]


def first_gradient(tensors, lr, *, steps, form, first_order=False):
    """Loss and meta-gradient of one step: Adam's first moment is a tenth of it."""
    weight, bias, support, support_y, hard, hard_y = (tensor.clone() for tensor in tensors)
    r, m, d = hard.shape
    epoch = CompiledEpoch(
        support, support_y, weight, bias, hard.reshape(r * m, d), hard_y.repeat(r),
        inner_lr=lr.tolist(), outer_lr=[0.1] * r, inner_steps=steps, support_steps=1,
        clip_norm=np.inf, longest=None, first_order=first_order, form=form,
    )  # fmt: skip
    loss = epoch(torch.arange(r * m).view(r, m)).clone()
    return loss, torch.from_numpy(epoch._by_trial[3]) / (1 - 0.9)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("sizes", [[4, 4], [1, 6], [9, 8], [1, 1]])
def test_gradients_are_those_of_autograd(sizes, steps, form, first_order):
    *tensors, lr = problem(2, sizes)
    weight, bias, support, support_y, hard, hard_y = tensors
    loss, gradient = first_gradient(tensors, lr, steps=steps, form=form, first_order=first_order)
    for i in range(3):
        of_autograd = autograd_loop.meta_gradient(
            Head(weight[i], bias[i]), support[i], support_y[i], hard[i], hard_y,
            steps=steps, lr=float(lr[i]), first_order=first_order,
        )  # fmt: skip
        assert float(loss[i]) == pytest.approx(float(of_autograd[0]), rel=1e-12)
        assert float((gradient[i] - of_autograd[1]).norm() / of_autograd[1].norm()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("sizes", "d", "m"), [([16, 16], 300, 60), ([40, 33], 70, 41)])
def test_in_float32_it_is_torchs_to_a_millionth(sizes, d, m, form):
    *tensors, lr = problem(2, sizes, d=d, m=m)
    tensors, lr = [t.float() if t.is_floating_point() else t for t in tensors], lr / 100
    loss, gradient = first_gradient(tensors, lr, steps=10, form=form)
    of_torch = meta_gradient(*tensors, steps=10, lr=lr, form=form)
    torch.testing.assert_close(loss.float(), of_torch[0], rtol=1e-6, atol=0)
    assert float((gradient - of_torch[1]).norm() / of_torch[1].norm()) < 1e-6


CHANGES = [
    {},
    {"max_edit": 0.5},
    {"outer_set": "random", "gradient": "first_order"},
    {"support_steps": 0},
    {"support_per_class": 9, "inner_steps": 12},
]


def both(splits, erm_head, monkeypatch, **changes):
    """A training of three trials by the compiled epoch, and by torch."""
    tr, val = splits["train"], splits["val"]
    trials = [Trial(seed, settings_of("hsfm", **changes), 30) for seed in (3, 7, 8)]
    results = []
    for switched_off in ("", "1"):
        monkeypatch.setattr("numba.config.DISABLE_JIT", int(bool(switched_off)))
        results.append(train_trials(tr, val, erm_head, trials, scorers={"": Scorer(val, "worst_group")})[""])
    return results


@pytest.mark.parametrize("changes", CHANGES)
def test_trainings_are_torchs(splits, erm_head, monkeypatch, changes):
    compiled, by_torch = both(splits, erm_head, monkeypatch, **changes)
    assert (compiled.engine, by_torch.engine) == ("compiled", "torch (NUMBA_DISABLE_JIT is set)")
    torch.testing.assert_close(compiled.head.weight, by_torch.head.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(compiled.head.bias, by_torch.head.bias, rtol=0, atol=1e-6)
    assert torch.equal(compiled.hard_rows, by_torch.hard_rows)
    assert compiled.kept_epoch.tolist() == by_torch.kept_epoch.tolist()
    found, expected = (result.history["outer_loss"].to_numpy() for result in (compiled, by_torch))
    np.testing.assert_allclose(found, expected, rtol=1e-5, equal_nan=True)


def test_threads_change_nothing(splits, erm_head, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    of_two, _ = both(splits, erm_head, monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    of_one, _ = both(splits, erm_head, monkeypatch)
    assert torch.equal(of_two.head.weight, of_one.head.weight)


def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


def no_folder(monkeypatch):
    def refused(*_):
        raise RuntimeError("cannot cache function 'epoch': no locator available for file 'kernels.py'")

    monkeypatch.setattr(kernels, "epoch", refused)


@pytest.mark.parametrize(
    ("broken", "reason", "warned"),
    [
        (no_numba, "torch (numba is not installed)", False),
        (no_folder, "torch (RuntimeError: cannot cache function 'epoch': no locator available for file", True),
    ],
)
def test_torch_trains_where_nothing_can_be_compiled(splits, erm_head, monkeypatch, caplog, broken, reason, warned):
    compiled, expected = both(splits, erm_head, monkeypatch)
    monkeypatch.setattr("numba.config.DISABLE_JIT", 0)
    broken(monkeypatch)
    settings = settings_of("hsfm")
    val = splits["val"]
    trials = [Trial(seed, settings, 30) for seed in (3, 7, 8)]
    result = train_trials(splits["train"], val, erm_head, trials, scorers={"": Scorer(val, "worst_group")})[""]
    assert result.engine.startswith(reason)
    assert torch.equal(result.head.weight, expected.head.weight)
    assert not torch.equal(result.head.weight, compiled.head.weight), "else the two are not told apart"
    assert ("HSFM runs without compiled code" in caplog.text) == warned


def test_other_devices_and_more_classes_are_torchs():
    support = torch.zeros(1, 4, 3)
    assert outer_loop.obstacle(support, 2) == ""
    assert outer_loop.obstacle(support, 3) == "3 classes"
    assert outer_loop.obstacle(support.to("meta"), 2) == "not on the CPU"

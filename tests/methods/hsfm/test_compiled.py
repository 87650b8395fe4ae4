"""The compiled epoch against autograd and the torch path, and what happens where there is none."""

import sys
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch

from hsfm.heads.hard_set import build
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm
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
        row_weights=support.new_full((2,), 1 / m), inner_lr=lr.tolist(), outer_lr=[0.1] * r,
        inner_steps=steps, support_steps=1, clip_norm=np.inf, longest=None, first_order=first_order, form=form,
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


def trained(splits, erm_head, **changes):
    tr, val = splits["train"], splits["val"]
    trials = [Trial(seed, settings_of("hsfm", **changes), 30) for seed in (3, 7, 8)]
    return train_trials(tr, val, erm_head, trials, scorers={"": Scorer(val, "worst_group")})[""]


def both(splits, erm_head, monkeypatch, **changes):
    """A training of three trials by the compiled epoch, and by torch."""
    with monkeypatch.context() as patched:
        patched.setattr("numba.config.DISABLE_JIT", 1)
        by_torch = trained(splits, erm_head, **changes)
    return trained(splits, erm_head, **changes), by_torch


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
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(trained(splits, erm_head).head.weight)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


def no_folder(monkeypatch):
    """numba looks for one when the module is imported."""
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    monkeypatch.delitem(sys.modules, kernels.__name__)
    monkeypatch.delattr(hsfm, "kernels")


def no_compilation(monkeypatch):
    def wrong(support, *_):
        return support.no_such_attribute

    monkeypatch.setattr(kernels, "epoch", numba.njit(wrong))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (no_numba, "import of numba halted; None in sys.modules"),
        (no_folder, "no folder can keep what numba compiles; NUMBA_CACHE_DIR may name one"),
        (no_compilation, "Failed in nopython mode pipeline (step: nopython frontend)"),
    ],
)
def test_torch_trains_where_nothing_can_be_compiled(splits, erm_head, monkeypatch, caplog, broken, reason):
    compiled, expected = both(splits, erm_head, monkeypatch)
    outer_loop._warn.cache_clear()
    broken(monkeypatch)
    result = trained(splits, erm_head)
    assert result.engine == f"torch ({reason})"
    assert torch.equal(result.head.weight, expected.head.weight)
    assert not torch.equal(result.head.weight, compiled.head.weight), "else the two are not told apart"
    assert f"HSFM trains without compiled code, which takes a few times longer: {reason}" in caplog.messages


def test_a_fit_says_what_trained_it(splits, erm_head, monkeypatch):
    def engine(part, val):
        head = erm_head if part.n_classes == 2 else Head(torch.zeros(3, 12), torch.zeros(3))
        settings, hard_set = settings_of("hsfm", epochs=1, select_by="worst_class"), build(head, val, per_class=9)
        return fit_supervised(hsfm, part, val, head, settings=settings, seeds=(0,), hard_set=hard_set)[0].settings[
            "engine"
        ]

    assert engine(splits["train"], splits["val"]) == "compiled"
    of_three = [
        replace(part, y=part.y + part.attribute, class_names=("a", "b", "c"), extra={}) for part in splits.values()
    ]
    assert engine(*of_three[:2]) == "torch (3 classes)"

"""AFR against the same training in autograd, and by what it promises."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.core.metrics import accuracy_by, worst
from hsfm.methods.afr import fit_afr, weigh
from hsfm.models.holdout import hold_out
from tests.conftest import planted

SETTINGS = {"gammas": [4.0, 10.0], "penalties": [0.0, 0.2], "steps": 40, "lr": 0.5, "clip_norm": 1.0}


def autograd(held_out, erm, gamma, penalty, steps, lr, clip_norm):
    """Plain torch: SGD, clip_grad_norm_, weights as the paper writes them."""
    layer = torch.nn.Linear(*reversed(erm.weight.shape))
    layer.weight.data, layer.bias.data = erm.weight.clone(), erm.bias.clone()
    p = erm.logits(held_out.features).softmax(-1)[torch.arange(len(held_out.y)), held_out.y]
    w = torch.exp(-gamma * p)
    for label in range(held_out.n_classes):
        w[held_out.y == label] /= (held_out.y == label).sum()
    w /= w.sum()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        moved = (layer.weight - erm.weight).square().sum() + (layer.bias - erm.bias).square().sum()
        loss = (w * cross_entropy(layer(held_out.features), held_out.y, reduction="none")).sum() + penalty * moved
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), clip_norm)
        optimizer.step()
    return layer


def test_every_pair_follows_plain_autograd(splits, erm_head):
    """The kept head is the oracle's at the kept pair and step, and the history its accuracies at others."""
    train, val = splits["train"], splits["val"]
    result = fit_afr(train, val, erm_head, **SETTINGS, progress=False)
    how = {"lr": SETTINGS["lr"], "clip_norm": SETTINGS["clip_norm"]}
    layer = autograd(train, erm_head, result.gamma, result.penalty, result.step, **how)
    torch.testing.assert_close(result.head.weight, layer.weight.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.head.bias, layer.bias.data, rtol=1e-4, atol=1e-5)
    assert len(result.history) == 4 * SETTINGS["steps"]
    for gamma, penalty, step in ((4.0, 0.0, 40), (10.0, 0.2, 7)):
        layer = autograd(train, erm_head, gamma, penalty, step, **how)
        correct = layer(val.features).argmax(1) == val.y
        found = result.history.query("gamma == @gamma and penalty == @penalty and step == @step").iloc[0]
        assert found["val_average"] == pytest.approx(float(correct.double().mean()), abs=1e-9)
        assert found["val_worst_group"] == pytest.approx(float(worst(accuracy_by(correct, val.group, 4))), abs=1e-9)


def test_the_kept_step_is_the_best_of_the_history(splits, erm_head):
    result = fit_afr(splits["train"], splits["val"], erm_head, **SETTINGS, progress=False)
    best = result.history.sort_values(["val_worst_group", "val_average"], ascending=False, kind="stable").iloc[0]
    assert (best["gamma"], best["penalty"], best["step"]) == (result.gamma, result.penalty, result.step)
    assert result.history[result.history["kept"]].index.tolist() == [best.name]


def test_it_raises_the_worst_group_above_erm_without_training_groups(splits, erm_head):
    train, val, test = (splits[name] for name in ("train", "val", "test"))
    blind = type(train)(**{**vars(train), "attribute": torch.full_like(train.attribute, -1)})
    settings = {**SETTINGS, "steps": 200}
    result = fit_afr(blind, val, erm_head, **settings, progress=False)
    assert torch.equal(result.head.weight, fit_afr(train, val, erm_head, **settings, progress=False).head.weight)

    def worst_group(head):
        return float(worst(accuracy_by(head.predict(test.features) == test.y, test.group, 4)))

    assert worst_group(result.head) > worst_group(erm_head) + 0.1


def test_weights_are_those_of_the_paper(splits, erm_head):
    train, unequal = splits["train"], planted("train", [90, 10, 5, 25], seed=4)
    flat = weigh(erm_head, unequal, 0)
    for label in range(2):  # gamma 0 balances the classes
        assert float(flat[unequal.y == label].sum()) == pytest.approx(0.5, abs=1e-5)
    steep = weigh(erm_head, train, 10)
    assert float(steep.sum()) == pytest.approx(1, abs=1e-5)
    wrong = erm_head.predict(train.features) != train.y
    assert steep[wrong].mean() > 10 * steep[~wrong].mean()


def test_a_strong_penalty_stays_at_erm(splits, erm_head):
    settings = {"gammas": [4.0], "penalties": [1e4], "steps": 20, "lr": 1e-5}
    result = fit_afr(splits["train"], splits["val"], erm_head, **settings, progress=False)
    assert (result.head.weight - erm_head.weight).norm() < 1e-3


def test_what_is_held_out_is_a_share_that_has_every_class():
    y = torch.tensor([0] * 90 + [1] * 10)
    rows = hold_out(y, 0.2, 0)
    assert len(rows) == 20
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(rows, hold_out(y, 0.2, 0))
    assert not torch.equal(rows, hold_out(y, 0.2, 1))
    with pytest.raises(ValueError, match=r"holdout: 0.01 takes 0 of the 10 images of class 1"):
        hold_out(torch.tensor([1] * 10 + [0] * 90), 0.01, 0)
    with pytest.raises(ValueError, match=r"holdout: 1.5 is not a share between 0 and 1"):
        hold_out(y, 1.5, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gammas": []}, r"gammas: \[\] is empty"),
        ({"penalties": [-1.0]}, r"penalties: \[-1.0\] is empty or holds a number that is not 0 or above"),
        ({"steps": 0}, r"steps: 0 is not a number of steps from 1"),
        ({"lr": float("nan")}, r"lr: nan is not a positive number"),
        ({"select_by": "luck"}, r"select_by: 'luck' is unknown; allowed are worst_group, worst_class"),
        ({"lr": 1e38, "clip_norm": 1e38, "penalties": [1.0]}, r"AFR: a head is no longer finite after step"),
    ],
)
def test_settings_that_cannot_be_are_named(splits, erm_head, setting, message):
    with pytest.raises(ValueError, match=message):
        fit_afr(splits["train"], splits["val"], erm_head, **{**SETTINGS, **setting}, progress=False)


def test_what_it_may_not_read_is_refused(splits, erm_head):
    val = planted("val", [6, 6, 6, 6], seed=3)
    blind = type(val)(**{**vars(val), "attribute": torch.full_like(val.attribute, -1)})
    with pytest.raises(ValueError, match=r"AFR's select_by: worst_group needs the attribute of every val image"):
        fit_afr(splits["train"], blind, erm_head, **SETTINGS, progress=False)
    by_class = fit_afr(splits["train"], blind, erm_head, **SETTINGS, select_by="worst_class", progress=False)
    assert by_class.step >= 1
    with pytest.raises(ValueError, match=r"AFR was given the test split"):
        fit_afr(splits["train"], splits["test"], erm_head, **SETTINGS, progress=False)

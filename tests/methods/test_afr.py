"""AFR against the same training in autograd, and by what it promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.core.metrics import accuracy_by, worst
from hsfm.heads.logistic_regression import halves
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import afr
from hsfm.models.holdout import hold_out
from tests.methods.small import worst_group

SETTINGS = {"gammas": (4.0, 10.0), "penalties": (0.0, 0.2), "steps": 40, "lr": 0.5}


def fit(held_out, val, erm, **changes):
    settings = afr.Settings(**{**SETTINGS, **changes})
    return fit_supervised(afr, held_out, val, erm, settings=settings, seeds=(5, 6))[0]


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
    result = fit(train, val, erm_head)
    history, how = result.tables["history"], {"lr": SETTINGS["lr"], "clip_norm": 1.0}
    layer = autograd(
        train, erm_head, **{name.replace("step", "steps"): n for name, n in result.settings.items()}, **how
    )
    torch.testing.assert_close(result.head.weight[0], layer.weight.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.head.bias[0], layer.bias.data, rtol=1e-4, atol=1e-5)
    assert len(history) == 4 * SETTINGS["steps"]
    for gamma, penalty, step in ((4.0, 0.0, 40), (10.0, 0.2, 7)):
        layer = autograd(train, erm_head, gamma, penalty, step, **how)
        correct = layer(val.features).argmax(1) == val.y
        found = history.query("gamma == @gamma and penalty == @penalty and epoch == @step").iloc[0]
        assert found["val_average"] == pytest.approx(float(correct.double().mean()), abs=1e-9)
        assert found["val_worst_group"] == pytest.approx(float(worst(accuracy_by(correct, val.group, 4))), abs=1e-9)
        assert found["val_worst_class"] == pytest.approx(float(worst(accuracy_by(correct, val.y, 2))), abs=1e-9)


@pytest.mark.parametrize("rule", ["worst_group", "worst_class", "average"])
def test_the_kept_step_is_the_best_of_the_history(splits, erm_head, rule):
    result = fit(splits["train"], splits["val"], erm_head, select_by=rule)
    history = result.tables["history"]
    best = history.sort_values([f"val_{rule}", "val_average"], ascending=False, kind="stable").iloc[0]
    assert {name: best[name] for name in ("gamma", "penalty")} | {"step": best["epoch"]} == result.settings
    assert history[history["kept"]].index.tolist() == [best.name]
    assert set(history["seed"]) == {5}
    pairs = history.groupby("trial")[["gamma", "penalty"]].agg(["min", "max"])
    assert pairs.to_numpy().tolist() == [[g, g, p, p] for g in SETTINGS["gammas"] for p in SETTINGS["penalties"]]
    words = f"gamma, lambda and the step with the best validation {rule.replace('_', ' ')}, then average"
    assert (result.chosen_by, result.seeds) == (words, (5,))


def test_on_train_pairs_and_steps_are_judged_on_rows_that_teach_nothing(splits, erm_head):
    """Other classes on validation change what is kept; the heads that are tried stay."""
    train, val = splits["train"], splits["val"]
    flipped = replace(val, y=1 - val.y)
    found, other = (fit(train, part, erm_head, select_by="average").tables["history"] for part in (val, flipped))
    np.testing.assert_allclose(found["val_average"], 1 - other["val_average"], atol=1e-6)


def test_it_raises_the_worst_group_above_erm(splits, erm_head):
    result = fit(splits["train"], splits["val"], erm_head, steps=200)
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1


def test_what_is_held_out_is_a_share_that_has_every_class():
    y = torch.tensor([0] * 90 + [1] * 10)
    rows = hold_out(y, 0.2, 0)
    assert len(rows) == 20
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(rows, hold_out(y, 0.2, 0))
    assert not torch.equal(rows, hold_out(y, 0.2, 1))
    with pytest.raises(ValueError, match=r"holdout: 0.01 takes 0 of 10 images of class 1"):
        hold_out(torch.tensor([1] * 10 + [0] * 90), 0.01, 0)


def test_what_it_cannot_or_may_not_fit_is_refused(splits, erm_head):
    train, val = splits["train"], splits["val"]
    with pytest.raises(ValueError, match=r"AFR: a head is no longer finite after step"):
        fit(train, val, erm_head, lr=1e38, clip_norm=1e38, penalties=(1.0,))
    with pytest.raises(ValueError, match="train and val embeddings differ in checkpoint"):
        fit(train, replace(val, checkpoint_sha256="b" * 64), erm_head)


def test_on_val_pair_and_step_are_chosen_on_a_half_and_fitted_on_all(splits, erm_head):
    val = splits["val"]
    result = fit(splits["train"], val, erm_head, on="val")
    assert result.seeds == (5, 6)
    for number, seed in enumerate(result.seeds):
        fit_rows, held_out = (torch.from_numpy(rows) for rows in halves(val.y.numpy(), np.random.default_rng(seed)))
        history = result.tables["history"].query("seed == @seed")
        pair = [result.settings[name][number] for name in ("gamma", "penalty")]
        kept = history[history["kept"]].iloc[0]
        assert kept["epoch"] == result.settings["step"][number]
        assert kept["val_worst_group"] == history["val_worst_group"].max()
        tried = autograd(val.take(fit_rows), erm_head, *pair, int(kept["epoch"]), SETTINGS["lr"], 1.0)
        right = tried(val.features[held_out]).argmax(1) == val.y[held_out]
        assert kept["val_average"] == pytest.approx(float(right.float().mean()))
        refitted = autograd(val, erm_head, *pair, int(kept["epoch"]), SETTINGS["lr"], 1.0)
        torch.testing.assert_close(result.head.weight[number], refitted.weight.data, rtol=1e-4, atol=1e-5)


def test_features_go_with_the_rows_that_teach():
    assert afr.FEATURES[afr.Settings().on] == "own"
    assert afr.FEATURES[afr.Settings(on="val").on] == "erm"

import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.supervision import fit_supervised
from hsfm.methods import group_dro
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(train, val, erm, *, seeds=(0,), **settings):
    return fit_supervised(group_dro, train, val, erm, settings=group_dro.Settings(**settings), seeds=seeds)


def test_a_training_is_the_papers_algorithm_in_plain_autograd(erm_head):
    rows = planted("val", [40, 10, 20, 30], seed=6)
    settings = group_dro.Settings(eta=0.5, adjustment=2.0, lr=0.01)
    states = group_dro.trajectory(rows, erm_head, [0.0, 0.1], settings, {7, 20})
    x = (rows.features - rows.features.mean(0)) / rows.features.std(0, correction=0)
    for number, penalty in enumerate((0.0, 0.1)):
        layer = torch.nn.Linear(12, 2)
        layer.weight.data = erm_head.weight * rows.features.std(0, correction=0)
        layer.bias.data = erm_head.bias + erm_head.weight @ rows.features.mean(0)
        optimizer, q = torch.optim.Adam(layer.parameters(), lr=0.01), torch.ones(4) / 4
        for step in range(1, 21):
            losses = []
            for group in range(4):
                members = rows.group == group
                losses.append(cross_entropy(layer(x[members]), rows.y[members]))
                q[group] *= torch.exp(0.5 * (losses[-1].detach() + 2.0 / members.sum() ** 0.5))
            q /= q.sum()
            optimizer.zero_grad()
            (sum(q[g] * losses[g] for g in range(4)) + penalty / 2 * layer.weight.square().sum()).backward()
            optimizer.step()
            if step in states:
                torch.testing.assert_close(
                    states[step][number].logits(rows.features), layer(x).detach(), rtol=1e-3, atol=1e-3
                )


@pytest.mark.parametrize("on", ["val", "train"])
def test_it_raises_the_worst_group(splits, erm_head, on):
    result, labels = fit(splits["train"], splits["val"], erm_head, on=on, lr=0.01)
    assert labels == {"val": "training"}.get(on, on)
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1


def test_weights_that_grow_lower_the_highest_loss_of_a_group(erm_head):
    rows = planted("train", [100, 100, 100, 100], seed=0)
    rows.features[rows.group == 3, 2] -= 2.0  # one group is hard, and equal weights leave it behind
    highest = []
    for eta in (1e-9, 0.1):
        settings = group_dro.Settings(eta=eta, lr=0.01)
        head = group_dro.trajectory(rows, erm_head, [0.01], settings, {500})[500][0]
        loss = cross_entropy(head.logits(rows.features), rows.y, reduction="none")
        highest.append(max(loss[rows.group == group].mean() for group in range(4)))
    assert highest[1] < 0.95 * highest[0]


def test_every_group_label_of_the_split_is_needed(splits, erm_head):
    with pytest.raises(ValueError, match="Group DRO needs the attribute of every val image"):
        fit(splits["train"], splits["val"].without_attributes(), erm_head, select_by="average")

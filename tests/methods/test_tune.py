import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads.hard_set import build
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm, tune
from tests.methods.small import worst_group

HOW = {"inner_steps": 4, "inner_lr": 1e-2, "epochs": 6}


def fit(splits, erm, **settings):
    train, val = splits["train"], splits["val"]
    settings = tune.Settings(**HOW | settings)
    hard_set = build(erm, val, per_class=15)
    return fit_supervised(tune, train, val, erm, settings=settings, seeds=(3, 4), hard_set=hard_set)


@pytest.mark.parametrize("refresh", ["epoch", "never"])
def test_it_is_torchs_adam_on_the_rows_that_are_hardest_now(splits, erm_head, refresh):
    val = splits["val"]
    layer = torch.nn.Linear(12, 2)
    layer.weight.data, layer.bias.data = erm_head.weight.clone(), erm_head.bias.clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)

    def hard_rows():
        loss = cross_entropy(layer(val.features), val.y, reduction="none")
        return torch.cat([(val.y == y).nonzero()[loss[val.y == y].topk(15).indices, 0] for y in (0, 1)])

    rows, hard_losses = hard_rows(), []
    for _ in range(6):
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(layer(val.features[rows]), val.y[rows]).backward()
            optimizer.step()
        now = hard_rows()
        hard_losses.append(cross_entropy(layer(val.features[now]), val.y[now]).item())
        rows = now if refresh == "epoch" else rows
    result, _ = fit(splits, erm_head, refresh=refresh, select_by="hard_loss")
    history = result.tables["history"]
    assert history["hard_loss"].tolist() == pytest.approx(hard_losses, rel=1e-3)
    assert history.loc[history["kept"], "epoch"].item() == 1 + hard_losses.index(min(hard_losses))
    assert result.chosen_by == "the epoch with the lowest loss on its hard set"


def test_the_last_of_the_best_epochs_is_kept(splits, erm_head):
    result, labels = fit(splits, erm_head)
    history = result.tables["history"]
    best = history[history["val_worst_group"] == history["val_worst_group"].max()]
    assert result.settings["kept_epoch"] == best["epoch"].max()
    assert labels == "selection"
    assert result.seeds == (3,)


def test_it_raises_the_worst_group(splits, erm_head):
    result, _ = fit(splits, erm_head, epochs=40)
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.1


def test_its_settings_are_hsfms_of_the_head(splits):
    assert tune.Settings.model_fields.keys() < hsfm.Settings.model_fields.keys()
    assert dict(tune.Settings()) == {
        name: value for name, value in hsfm.Settings() if name in tune.Settings.model_fields
    }


def test_a_step_that_leaves_no_finite_loss_is_an_error(splits, erm_head):
    with pytest.raises(ValueError, match="Tune: inner_lr 3e\\+37 diverged"):
        fit(splits, erm_head, inner_lr=3e37)

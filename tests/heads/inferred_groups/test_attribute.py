import logging
from dataclasses import replace

import pytest
import torch

from hsfm.heads.hard_set import build
from hsfm.heads.inferred_groups.attribute import infer_attribute
from hsfm.heads.inferred_groups.groups import find_groups
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm, llr
from tests.conftest import planted
from tests.methods.small import needs_of, settings_of

BIASED = planted("val", [110, 15, 15, 100], seed=5)


def one_cloud(split, seed):
    """Rows whose attribute is nowhere in the features."""
    rows = planted(split, [300, 20, 20, 300], seed=seed)
    features = torch.randn(rows.features.shape, generator=torch.Generator().manual_seed(seed))
    features[torch.arange(640), rows.y] += 2.0
    return replace(rows, features=features)


def test_groups_are_those_that_were_planted_and_no_label_is_read(splits):
    train, val = splits["train"], BIASED
    inferred, doubt = infer_attribute(train.without_attributes(), val.without_attributes(), "a test")
    assert doubt == ""
    assert inferred.attribute_names == val.class_names
    assert (inferred.attribute == val.attribute).double().mean() > 0.99
    assert torch.equal(inferred.features, val.features)


def test_a_bias_that_validation_alone_has_is_found_there():
    train = planted("train", [160] * 4, seed=3)
    found = find_groups(train.without_attributes(), BIASED.without_attributes(), fold_seeds=3)
    assert found.p_gate < 0.05
    assert found.p_guard < 0.01
    assert (found.val == BIASED.attribute.numpy()).mean() > 0.98
    assert (found.train == train.attribute.numpy()).mean() > 0.98
    assert ((found.posterior > 0.5) == (found.val == BIASED.y.numpy())).all()


def test_a_rule_that_cannot_be_kept_is_said_and_the_worst_class_takes_its_place(erm_head, caplog):
    train, val = one_cloud("train", 1), one_cloud("val", 2)
    fits = {
        rule: fit_supervised(llr, train, val, erm_head, settings=settings_of("llr", select_by=rule), seeds=(0,))
        for rule in ("inferred_group", "worst_class")
    }
    (fit, labels), (expected, _) = fits.values()
    assert torch.equal(fit.head.weight, expected.head.weight)
    assert labels == "none"
    words = "no groups inferred: the attribute shows no two clouds"
    assert fit.chosen_by == f"C by the worst class ({words}) of one half of validation"
    assert "select_by: inferred_group: no groups inferred, the attribute shows no two clouds" in caplog.text


@pytest.mark.parametrize("per_class", [30, 200])
def test_hsfms_inferred_outer_set_has_equal_mass_and_stays(splits, erm_head, per_class):
    settings = settings_of("hsfm", outer_set="inferred", select_by="inferred_group")
    needs = {"hard_set": build(erm_head, BIASED, per_class=per_class)}
    fit, labels = fit_supervised(hsfm, splits["train"], BIASED, erm_head, settings=settings, seeds=(0, 3), **needs)
    assert labels == "none"
    assert fit.chosen_by == "the epoch with the best validation worst inferred group"
    assert "no groups inferred" not in "".join(fit.remarks)
    assert (fit.settings["outer_set"], fit.settings["refresh"]) == ("inferred", "never")
    rows = torch.from_numpy(fit.arrays["hard_rows"])
    assert (rows == rows[:, :1]).all(), "the same in every epoch"
    assert not torch.equal(rows[0], rows[1]), "each seed draws its own"
    for seed in range(2):
        counts = torch.bincount(BIASED.group[rows[seed, 0].long()], minlength=4)
        half = [min(per_class, size) // 2 for size in (125, 115)]
        # at most one row of each inferred side is not of its group
        assert (counts - torch.tensor([half[0], half[0], half[1], half[1]])).abs().max() <= half[0] / 15 + 1


def test_without_groups_hsfms_outer_set_is_the_hard_one_and_it_is_said(erm_head, caplog):
    train, val = one_cloud("train", 1), one_cloud("val", 2)
    needs, found = needs_of(hsfm, erm_head, val), []
    for outer_set in ("inferred", "hard"):
        settings = settings_of("hsfm", outer_set=outer_set, select_by="worst_class")
        with caplog.at_level(logging.WARNING):
            found.append(fit_supervised(hsfm, train, val, erm_head, settings=settings, seeds=(0,), **needs)[0])
    assert torch.equal(found[0].head.weight, found[1].head.weight)
    assert (found[0].arrays["hard_rows"] == found[1].arrays["hard_rows"]).all()
    said = "outer set of hard images, no groups inferred: the attribute shows no two clouds"
    assert found[0].remarks == (said,)
    assert found[0].settings["outer_set"] == "hard"
    assert found[1].remarks == ("",)
    assert "outer_set: inferred: no groups inferred, the attribute shows no two clouds" in caplog.text


def test_a_split_is_searched_once_and_anew_where_it_changes(splits):
    train, val = (replace(part, features=part.features.clone()) for part in (splits["train"], BIASED))

    def find(train=train, val=val):
        return find_groups(train.without_attributes(), val.without_attributes(), fold_seeds=1)

    first = find()
    assert find() is first
    assert find(val=replace(val, y=1 - val.y)).shares[0, 0] != first.shares[0, 0]
    assert find(train=replace(train, y=1 - train.y)).p_guard != first.p_guard
    val.features[:, 0] *= -1  # in place: the attribute that went with a class goes with the other
    assert (find().val != first.val).mean() > 0.9

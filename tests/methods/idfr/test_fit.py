from dataclasses import replace

import numpy as np
import pytest
import torch

from hsfm.features.embeddings import NotApplicable
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import cb_llr, dfr, idfr
from tests.conftest import planted
from tests.methods.small import settings_of, worst_group

BIASED = [90, 10, 10, 90]


def fit(train, val, erm, seeds=(0,), **settings):
    return fit_supervised(idfr, train, val, erm, settings=settings_of("idfr", **settings), seeds=seeds)


def shuffled_within_classes(embeddings, seed):
    """Features without an attribute: each class one Gaussian, with the second axes' class effect alone."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(embeddings.features.shape, generator=generator)
    features[torch.arange(len(embeddings.y)), 1 + embeddings.y] += 2.5
    return replace(embeddings, features=features)


def test_on_biased_validation_it_is_dfr_with_true_groups(splits, erm_head):
    val = planted("val", BIASED, seed=5)
    found, labels = fit(splits["train"], val, erm_head, seeds=(0, 1))
    true, _ = fit_supervised(dfr, splits["train"], val, erm_head, settings=settings_of("dfr"), seeds=(0, 1))
    assert labels == "none"
    assert found.settings["branch"] == "dfr"
    table = found.tables["groups_found"]
    assert (table["found_group"].to_numpy() == val.group.numpy()).all()
    assert list(table["image_id"]) == list(val.image_id)
    torch.testing.assert_close(found.head.weight, true.head.weight)
    assert found.chosen_by == "C by the worst inferred group of one half of validation"
    assert found.remarks == (found.summary.split("; C ")[0],) * 2
    assert "DFR on inferred groups" in found.summary
    assert "minority 10 %, 10 % by class" in found.summary


def test_train_rows_join_where_asked(splits, erm_head):
    train, val = splits["train"], planted("val", BIASED, seed=5)
    joined, labels = fit(train, val, erm_head, with_train=True)
    true, _ = fit_supervised(dfr, train, val, erm_head, settings=settings_of("dfr", on="both"), seeds=(0,))
    assert labels == "none"
    torch.testing.assert_close(joined.head.weight, true.head.weight)


def test_balanced_validation_gets_llr_or_afr_by_halves(splits, erm_head):
    """ERM's head is bad here, and AFR that may not leave it is, too; from a head of the true direction it is better."""
    train, val = splits["train"], splits["val"]
    found, _ = fit(train, val, erm_head, penalties=(1e6,))
    expected, _ = fit_supervised(
        cb_llr, train, val, erm_head, settings=settings_of("cb_llr", select_by="worst_group"), seeds=(0,)
    )
    assert found.settings["branch"] == "llr"
    assert torch.equal(found.head.weight, expected.head.weight)
    assert "worst inferred group of halves" in found.chosen_by
    good = expected.head[0]
    pulled, _ = fit(train, val, good, penalties=(1e6,), grid=(1e-6,))  # LLR's weights are 0
    assert pulled.settings["branch"] == "afr"
    torch.testing.assert_close(pulled.head.weight[0], good.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_without_an_attribute_it_falls_back(splits, erm_head, seed):
    train, val = (shuffled_within_classes(splits[name], seed + i) for i, name in enumerate(("train", "val")))
    found, labels = fit(train, val, erm_head)
    assert labels == "none"
    assert found.settings["branch"] == "afr"
    assert found.settings["p_gate"] > 0.05
    assert found.chosen_by.startswith("gamma and penalty")
    assert "AFR on validation: the attribute shows no two clouds" in found.remarks[0]


def test_wrong_labels_are_not_a_minority(erm_head):
    """Classes that lie far apart, 5 % of labels wrong: two clouds, but nothing else tells the rows of a cloud apart."""
    refused = 0
    for seed in range(5):
        splits = []
        for number, (name, n) in enumerate((("train", 400), ("val", 150))):
            given = planted(name, [n, 0, 0, n], seed=10 * seed + number)
            flipped = torch.rand(2 * n, generator=torch.Generator().manual_seed(seed)) < 0.05
            splits.append(replace(given, y=torch.where(flipped, 1 - given.y, given.y)))
        found, _ = fit(*splits, erm_head)
        assert found.settings["p_gate"] < 0.05
        refused += "wrong labels" in found.remarks[0].split("(")[0]
    assert refused >= 4


def test_the_worst_group_rises(splits, erm_head):
    val = planted("val", BIASED, seed=5)
    found, _ = fit(splits["train"], val, erm_head)
    assert worst_group(found.head, splits["test"]) > worst_group(erm_head, splits["test"]) + 0.2


def test_few_rows_and_a_constant_feature_are_no_error(erm_head):
    train, val = planted("train", [3, 1, 1, 3], seed=0), planted("val", [1, 1, 1, 1], seed=1)
    for split in (train, val):
        split.features[:, 3] = 1.0
    found, _ = fit(train, val, erm_head)
    assert found.settings["branch"] == "afr"
    assert found.head.weight.isfinite().all()
    assert np.isfinite(found.tables["groups_found"]["posterior"]).all()


def overlapping(name, n, share, seed):
    """Two classes and an attribute whose clouds overlap, of which `share` goes with the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    attribute = np.where(np.arange(n) < share * n, y, 1 - y)
    x = rng.normal(size=(n, 12))
    x[:, 0] += 3 * (attribute - 0.5)
    x[:, 1] += 2.5 * (y - 0.5)
    given = planted(name, [n // 4] * 4, seed=0)
    features = torch.from_numpy(x.astype(np.float32))
    return replace(given, features=features, y=torch.from_numpy(y), attribute=torch.from_numpy(1 - attribute))


def test_hints_open_the_gate_by_labels_of_the_rows_that_it_asks_for_and_no_others(erm_head):
    train, val, test = (
        overlapping(*of) for of in (("train", 1000, 0.95, 0), ("val", 400, 0.9, 1), ("test", 2000, 0.5, 2))
    )
    erm = erm_head
    shut, _ = fit(train, val, erm)
    opened, labels = fit(train, val, erm, hints=20)
    assert (shut.settings["branch"], opened.settings["branch"], labels) == ("afr", "dfr", "hints")
    table = opened.tables["groups_found"]
    assert list(table[table["hinted"]].groupby("y").size()) == [20, 20]
    assert opened.settings["p_hints"] < 0.01
    # the attribute is numbered the other way round than the class that it goes with
    hinted = table["hinted"].to_numpy()
    assert (table["found"].to_numpy() == 1 - val.attribute.numpy())[hinted].all()
    assert worst_group(opened.head, test) > worst_group(shut.head, test) + 0.05
    rows = torch.from_numpy(np.flatnonzero(hinted))
    only = torch.full_like(val.attribute, -1)
    only[rows] = val.attribute[rows]
    seen = fit_supervised(
        idfr, train, replace(val, attribute=only), erm, settings=settings_of("idfr", hints=20), seeds=(0,)
    )[0]
    torch.testing.assert_close(seen.head.weight, opened.head.weight)
    only[rows[0]] = -1
    with pytest.raises(NotApplicable, match="hints asks for the attribute of image"):
        fit(train, replace(val, attribute=only), erm, hints=20)


def test_labels_that_have_nothing_to_do_with_the_groups_confirm_nothing(erm_head):
    train, val = overlapping("train", 1000, 0.95, 0), overlapping("val", 400, 0.9, 1)
    shuffled = val.attribute[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    found, _ = fit(train, replace(val, attribute=shuffled), erm_head, hints=10)
    assert found.settings["branch"] == "afr"
    assert found.settings["p_hints"] > 0.05

from dataclasses import replace

import pytest
import torch

from hsfm.analysis.validation_bias import METHODS, class_sizes, measure_validation_bias, subsample
from hsfm.core.metrics import accuracy_by, worst
from hsfm.features.embeddings import minority_rows
from hsfm.methods.dfr import fit_dfr, fit_llr
from hsfm.methods.hsfm.train import train
from tests.conftest import planted

SETTINGS = {
    "hsfm": {"support_per_class": 16, "inner_steps": 3, "inner_lr": 1e-2, "outer_lr": 0.1, "support_steps": 3,
             "hard_per_class": 20, "epochs": 3},
    "dfr": {"grid": [1.0, 0.1], "fits": 2, "max_iter": 1000},
    "llr": {"grid": [1.0, 0.1], "max_iter": 1000},
}  # fmt: skip


def test_every_agreement_has_one_size_and_its_share_of_majority(splits):
    val = planted("val", [90, 60, 30, 60], seed=1)  # classes of 150 and 90
    minority = minority_rows(splits["train"], val)
    agreements = [0.5, 0.8, 0.9]
    sizes = class_sizes(val, minority, agreements)
    # 60 of class 0 and 30 of class 1 are minority: 60 / 0.5 and 30 / 0.5, 90 / 0.9 and 60 / 0.9 bound the share
    assert sizes == [100, 60]
    for agreement in agreements:
        part = subsample(val, minority, sizes, agreement, torch.Generator().manual_seed(0))
        assert torch.bincount(part.y).tolist() == sizes
        rare = minority_rows(splits["train"], part)
        for label, size in enumerate(sizes):
            assert int((~rare)[part.y == label].sum()) == round(agreement * size)
        assert len(set(part.image_id)) == sum(sizes)
        rows = [val.image_id.index(name) for name in part.image_id]
        assert torch.equal(part.features, val.features[rows])
        assert rows == sorted(rows), "in table order"


def test_draws_differ(splits):
    val = splits["val"]
    minority = minority_rows(splits["train"], val)
    sizes = class_sizes(val, minority, [0.9])
    ids = [set(subsample(val, minority, sizes, 0.9, torch.Generator().manual_seed(s)).image_id) for s in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_rows_are_what_the_methods_give_on_the_subsample(splits, erm_head):
    tr, val, test = splits["train"], splits["val"], splits["test"]
    frame = measure_validation_bias(tr, val, test, erm_head, agreement=[0.5, 0.9], draws=2, settings=SETTINGS)
    assert frame[["method", "agreement", "draw"]].drop_duplicates().shape == (20, 3)
    assert set(frame["n"]) == {132}
    assert frame.groupby("agreement")["n_minority"].unique().map(list).to_dict() == {0.5: [66], 0.9: [14]}
    minority = minority_rows(tr, val)
    part = subsample(val, minority, class_sizes(val, minority, [0.5, 0.9]), 0.9, torch.Generator().manual_seed(1))
    expected = {
        "erm": erm_head,
        "llr": fit_llr(part, seeds=[1], **SETTINGS["llr"])[0],
        "dfr": fit_dfr(part, seeds=[1], **SETTINGS["dfr"])[0],
        "hsfm": train(tr, part, erm_head, seeds=[1], **SETTINGS["hsfm"]).head[0],
        "hsfm_capped": train(tr, part, erm_head, seeds=[1], **{**SETTINGS["hsfm"], "hard_per_class": 7}).head[0],
    }
    rows = frame[(frame["agreement"] == 0.9) & (frame["draw"] == 1)].set_index("method")
    assert list(rows.index) == list(METHODS)
    for method, head in expected.items():
        correct = head.predict(test.features) == test.y
        assert rows.loc[method, "test_worst_group"] == float(worst(accuracy_by(correct, test.group, 4)))
        assert rows.loc[method, "test_average"] == float(correct.double().mean())
    erm = frame[frame["method"] == "erm"]
    assert erm["test_average"].nunique() == 1, "ERM sees no validation image"
    assert rows.loc["hsfm", "sees"] == "classes; groups choose the epoch"
    by_class = {**SETTINGS, "hsfm": {**SETTINGS["hsfm"], "select_by": "worst_class"}}
    other = measure_validation_bias(tr, val, test, erm_head, agreement=[0.5], draws=1, settings=by_class)
    assert other.set_index("method").loc["hsfm", "sees"] == "classes"


def test_what_cannot_be_subsampled_is_named(splits, erm_head):
    tr, val, test = splits["train"], splits["val"], splits["test"]
    with pytest.raises(ValueError, match=r"agreement: 1\.5 is not between 0 and 1"):
        measure_validation_bias(tr, val, test, erm_head, agreement=[1.5], draws=1, settings=SETTINGS)
    blind = replace(val, attribute=torch.full_like(val.attribute, -1))
    with pytest.raises(ValueError, match="validation_bias needs the attribute of every val image; 240 of 240 lack it"):
        measure_validation_bias(tr, blind, test, erm_head, agreement=[0.5], draws=1, settings=SETTINGS)
    pure = planted("val", [60, 60, 0, 60], seed=1)
    message = r"agreement: \[0.5\] cannot be had from 60 majority and 0 minority images of class class 1"
    with pytest.raises(ValueError, match=message):
        measure_validation_bias(tr, pure, test, erm_head, agreement=[0.5], draws=1, settings=SETTINGS)
    for change, message in (
        ({"draws": 0}, "draws: 0 is not a positive whole number"),
        ({"agreement": []}, r"agreement: \[\] is empty or repeats a share"),
        ({"agreement": [0.5, 0.5]}, r"agreement: \[0\.5, 0\.5\] is empty or repeats"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_validation_bias(
                tr, val, test, erm_head, settings=SETTINGS, **{"agreement": [0.5], "draws": 1, **change}
            )


def test_a_group_that_would_keep_one_image_is_named_before_any_fit(splits, erm_head):
    few = planted("val", [28, 2, 2, 28], seed=1)
    message = r"agreement: 0\.95 leaves 1 of 2 images of group class 0, right in planted val \(draw 0\); at least 2"
    with pytest.raises(ValueError, match=message):
        measure_validation_bias(
            splits["train"], few, splits["test"], erm_head, agreement=[0.9, 0.95], draws=1, settings=SETTINGS
        )

from importlib import import_module

import pytest
import torch

from hsfm.analysis.validation_bias import ValidationBiasSettings, class_sizes, measure_validation_bias, subsample
from hsfm.core.metrics import accuracy_by, worst
from hsfm.features.embeddings import minority_rows
from hsfm.heads.hard_set import build
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import dfr, hsfm, idfr, llr
from tests.conftest import planted
from tests.methods.small import settings_of

SETTINGS = {name: settings_of(name) for name in ("llr", "dfr", "hsfm", "idfr")}


def measured(tr, val, test, erm, *, agreement, draws=1, settings=SETTINGS):
    bias = ValidationBiasSettings(agreement=tuple(agreement), draws=draws)
    rows = {name: (import_module(f"hsfm.methods.{name}"), own) for name, own in settings.items()}
    return measure_validation_bias(tr, val, test, erm, bias=bias, rows=rows, hard_per_class=20)


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
        other = subsample(val, minority, sizes, agreement, torch.Generator().manual_seed(1))
        assert set(other.image_id) != set(part.image_id)
        rows = [val.image_id.index(name) for name in part.image_id]
        assert torch.equal(part.features, val.features[rows])
        assert rows == sorted(rows), "in table order"


def test_rows_are_what_the_methods_give_on_the_subsample(splits, erm_head):
    tr, val, test = splits["train"], splits["val"], splits["test"]
    frame = measured(tr, val, test, erm_head, agreement=[0.5, 0.9], draws=2)
    assert frame[["method", "agreement", "draw"]].drop_duplicates().shape == (len(frame), 3) == (24, 3)
    assert set(frame["n"]) == {132}
    assert frame.groupby("agreement")["n_minority"].unique().map(list).to_dict() == {0.5: [66], 0.9: [14]}
    minority = minority_rows(tr, val)
    part = subsample(val, minority, class_sizes(val, minority, [0.5, 0.9]), 0.9, torch.Generator().manual_seed(1))

    def alone(method, **needs):
        settings = SETTINGS[method.__name__.rpartition(".")[2]]
        return fit_supervised(method, tr, part, erm_head, settings=settings, seeds=[1], **needs)[0].head[0]

    expected = {
        "erm": erm_head,
        "llr": alone(llr),
        "dfr": alone(dfr),
        "hsfm": alone(hsfm, hard_set=build(erm_head, part, per_class=20)),
        "hsfm_capped": alone(hsfm, hard_set=build(erm_head, part, per_class=7)),
        "idfr": alone(idfr),
    }
    rows = frame[(frame["agreement"] == 0.9) & (frame["draw"] == 1)].set_index("method")
    assert list(rows.index) == list(expected)
    for method, head in expected.items():
        correct = head.predict(test.features) == test.y
        assert rows.loc[method, "test_worst_group"] == float(worst(accuracy_by(correct, test.group, 4)))
        assert rows.loc[method, "test_average"] == float(correct.double().mean())
    erm = frame[frame["method"] == "erm"]
    assert erm["test_average"].nunique() == 1, "ERM sees no validation image"
    assert rows["sees"].to_dict() == {
        "erm": "nothing",
        "llr": "classes",
        "dfr": "classes, groups",
        "hsfm": "classes; groups to choose by",
        "hsfm_capped": "classes; groups to choose by; number of minority images",
        "idfr": "classes",
    }
    assert rows["branch"].to_dict() == {**dict.fromkeys(expected, ""), "idfr": "dfr"}
    by_class = {**SETTINGS, "hsfm": settings_of("hsfm", select_by="worst_class")}
    other = measured(tr, val, test, erm_head, agreement=[0.5], settings=by_class)
    assert other.set_index("method").loc["hsfm", "sees"] == "classes"


def test_a_draw_without_what_a_method_needs_has_no_number_and_a_reason(splits, erm_head):
    tr, val, test = splits["train"], splits["val"], splits["test"]
    only = {name: SETTINGS[name] for name in ("llr", "dfr")}
    frame = measured(tr, val, test, erm_head, agreement=[0.5, 0.99], settings=only).set_index(["method", "agreement"])
    assert frame.loc[("dfr", 0.99), "n_minority"] == 2, "one of each class"
    assert "1 validation image; two halves need at least 2" in frame.loc[("dfr", 0.99), "left_out"]
    assert frame.loc[("dfr", 0.99), ["test_average", "test_worst_group"]].isna().all()
    rest = frame.drop(index=("dfr", 0.99))
    assert (rest["left_out"] == "").all()
    assert rest["test_worst_group"].notna().all()


def test_what_cannot_be_subsampled_is_named(splits, erm_head):
    tr, val, test = splits["train"], splits["val"], splits["test"]
    with pytest.raises(ValueError, match="validation_bias needs the attribute of every val image; 240 of 240 lack it"):
        measured(tr, val.without_attributes(), test, erm_head, agreement=[0.5])
    pure = planted("val", [60, 60, 0, 60], seed=1)
    message = r"agreement: \[0.5\] cannot be had from 60 majority and 0 minority images of class class 1"
    with pytest.raises(ValueError, match=message):
        measured(tr, pure, test, erm_head, agreement=[0.5])

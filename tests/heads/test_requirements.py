"""Requirements that are declared are those that fits have, so that a check of the labels alone foresees them."""

from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
import torch

from hsfm.data.table import ImageTable, complete
from hsfm.features.embeddings import NotApplicable
from hsfm.heads.known_methods import found
from hsfm.heads.requirements import Requirement, check_holdout, check_labels, check_numbers, labels_of
from hsfm.heads.supervision import fit_supervised
from tests.conftest import planted
from tests.methods.small import needs_of, settings_of

METHODS = {name: method for name, method in found().items() if not method.images}
ON = [(name, {}) for name in METHODS] + [(name, {"on": "train"}) for name in ("dfr", "balance", "group_dro")]


def unknown(embeddings):
    return replace(embeddings, attribute=embeddings.attribute.index_fill(0, torch.tensor([5]), -1))


LABELS = {  # val by its images per group, and what else is changed
    "a group of one": ([20, 1, 5, 20], lambda train, val: (train, val)),
    "a class of one": ([20, 5, 1, 0], lambda train, val: (train, val)),
    "an empty group": ([20, 0, 5, 20], lambda train, val: (train, val)),
    "val unknown": ([20, 5, 5, 20], lambda train, val: (train, unknown(val))),
    "train unknown": ([20, 5, 5, 20], lambda train, val: (unknown(train), val)),
    "no early logits": ([20, 5, 5, 20], lambda train, val: (train, replace(val, extra={}))),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(("name", "changes"), ON)
def test_a_row_is_left_out_where_the_labels_say_so(erm_head, name, changes, labels):
    counts, change = LABELS[labels]
    train, val = change(planted("train", [60, 10, 10, 60], seed=0), planted("val", counts, seed=1))
    method, settings = import_module(f"hsfm.methods.{name}"), settings_of(name, select_by="average", **changes)
    asked = {"groups": settings.groups, "halves": settings.halves, "extra": METHODS[name].extra}
    foreseen = check_labels({"train": train, "val": val}, {name: Requirement(method.LABEL, "average", **asked)})
    said = ""
    try:
        fit_supervised(method, train, val, erm_head, settings=settings, seeds=(0,), **needs_of(method, erm_head, val))
    except NotApplicable as error:
        said = str(error)
    assert foreseen.get(name, "") == said or ("has 1 image" in foreseen[name] and "has 1 validation image" in said)


def test_what_would_stop_the_run_is_an_error(splits):
    some = {"train": splits["train"], "val": unknown(splits["val"])}
    rows = {"llr": Requirement("LLR", "worst_class"), "hsfm": Requirement("HSFM", "worst_group")}
    message = r"group \(hsfm\) needs the attribute of every val image; 1 of 240 lack it, first 'val-0005'; give it"
    with pytest.raises(ValueError, match=message) as caught:
        check_labels(some, rows)
    assert not isinstance(caught.value, NotApplicable)
    assert check_labels(some, {"llr": rows["llr"]}) == {}
    with pytest.raises(ValueError, match="ddb/retrain/weights: has 3, expected one for each class: class 0, class 1"):
        check_numbers(splits["train"], {"unclip/prompts": ("attribute", 2), "ddb/retrain/weights": ("class", 3)})
    large = replace(splits["val"], min_group=500)
    with pytest.raises(ValueError, match=r"min_group: is 500, but the largest group of validation has [0-9]+ images"):
        check_labels({**some, "val": large}, rows)
    few = planted("train", [30, 0, 1, 0], seed=0)
    with pytest.raises(ValueError, match=r"holdout: 0.2 takes [01] of 1 images of class 1"):
        check_holdout(few, 0.2, (0, 1))


def test_a_group_of_one_is_named(splits):
    val = planted("val", [20, 1, 5, 20], seed=1)
    rows = {"dfr": Requirement("DFR", "worst_class", "val", "group"), "llr": Requirement("LLR", None, halves="class")}
    assert check_labels({"train": splits["train"], "val": val}, rows) == {
        "dfr": "DFR halves every group of validation, but class 0, right has 1 image"
    }


def test_labels_of_a_table_are_those_of_its_embeddings(splits):
    rows = pd.concat(
        pd.DataFrame({"image_id": e.image_id, "y": e.y, "attribute": e.attribute, "split": name})
        for name, e in splits.items()
    )
    rows["attribute"] = rows["attribute"].astype("Int32").mask(rows["image_id"] == "val-0005")
    names = splits["val"].class_names, splits["val"].attribute_names
    found_labels = labels_of(ImageTable(complete(rows, names[1]), "planted", *names), ["early_logits"])
    for name, e in splits.items():
        expected = unknown(e) if name == "val" else e
        assert torch.equal(found_labels[name].group, expected.group)
        assert set(found_labels[name].extra) == ({"early_logits"} if name == "val" else set())
        assert found_labels[name].image_id == e.image_id

import pandas as pd
import pytest

from hsfm.data.table import ImageTable, complete
from hsfm.report.card import agreement, count_groups, write_text


def table(attribute_of_train=None, **changes) -> ImageTable:
    """Train: 8 cats in, 2 out; 1 dog in, 9 out; val and test: one of each group."""
    groups = [(0, 0)] * 8 + [(0, 1)] * 2 + [(1, 0)] + [(1, 1)] * 9 + [(0, 0), (0, 1), (1, 0), (1, 1)] * 2
    rows = pd.DataFrame(groups, columns=["y", "attribute"]).astype({"attribute": "Int32"})
    rows["split"] = ["train"] * 20 + ["val"] * 4 + ["test"] * 4
    rows["image_id"] = [f"i{n}" for n in range(28)]
    rows = rows.assign(path="x", height=10, width=20, **changes)
    if attribute_of_train is not None:
        rows.loc[:19, "attribute"] = attribute_of_train
    return ImageTable(complete(rows, ("in", "out")), "pets", ("cat", "dog"), ("in", "out"), "photos")


def test_counts_by_group_and_split():
    counts = count_groups(table())
    assert counts.columns.tolist() == ["class", "attribute", "train", "val", "test", "all"]
    assert counts.to_numpy().tolist() == [
        ["cat", "in", 8, 1, 1, 10], ["cat", "out", 2, 1, 1, 4], ["dog", "in", 1, 1, 1, 3], ["dog", "out", 9, 1, 1, 11]
    ]  # fmt: skip


def test_unknown_attributes_are_counted_and_empty_groups_left_out():
    counts = count_groups(table(attribute_of_train=pd.NA))
    assert ["cat", "unknown", 10, 0, 0, 10] in counts.to_numpy().tolist()
    assert len(counts) == 6
    assert agreement(table(attribute_of_train=pd.NA)) == {"train": None, "val": None, "test": None}
    assert "cannot be said" in write_text(table(attribute_of_train=pd.NA), counts)


def test_agreement_is_the_share_of_majority_images():
    assert agreement(table()) == {"train": pytest.approx(17 / 20), "val": 0.5, "test": 0.5}


def test_the_card_for_readers():
    text = write_text(table(), count_groups(table()))
    assert "| dog | out | 9 | 1 | 1 (few) | 11 | 45.0 |" in text
    assert "Few: 4 of 4 groups have fewer than 50 test images, the smallest 1, of which one is 100.0 points" in text
    assert "| all |  | 20 | 4 | 4 | 28 | 100.0 |" in text
    assert "than in all of train: train 85.0 %, val 50.0 %, test 50.0 %." in text


def test_names_cannot_break_the_table():
    odd = table()
    odd = ImageTable(odd.rows, odd.dataset, ("c|at", "d\nog"), odd.attribute_names, odd.folder)
    text = write_text(odd, count_groups(odd))
    assert "| c\\|at | in | 8 |" in text
    assert "| d og | out | 9 |" in text

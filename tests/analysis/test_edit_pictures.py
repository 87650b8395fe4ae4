from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.analysis.edit_pictures import NEAREST, neighbor_pictures
from hsfm.analysis.edits import EditSettings, measure
from hsfm.methods.hsfm.support import Support
from tests.conftest import planted


@pytest.fixture(scope="module")
def edits():
    """Two rows of each group; the second of each goes much further, along the attribute."""
    train, val = planted("train", [20] * 4, seed=0), planted("val", [10] * 4, seed=1)
    rows = [row for group in range(4) for row in (train.group == group).nonzero()[:2, 0].tolist()]
    before = train.features[rows]
    shift = torch.zeros_like(before)
    shift[:, 0] = torch.where(train.attribute[rows] == 0, 1.0, -1.0) * torch.tensor([0.1, 6.0] * 4)
    ids = tuple(train.image_id[row] for row in rows)
    support = Support((0,) * 8, ids, train.y[rows], before, before + shift, train.checkpoint_sha256)
    return measure(support, train, val, settings=EditSettings()).rows, train


def picture_of(train):
    """An image that tells its row."""
    place = {image_id: row for row, image_id in enumerate(train.image_id)}
    return lambda ids: [np.full((2, 2, 3), place[one], np.uint8) for one in ids]


def test_longest_edits_of_each_group_with_their_neighbors(edits, monkeypatch):
    monkeypatch.setattr("hsfm.analysis.edit_pictures.SHOWN", 4)
    measured, train = edits
    found = neighbor_pictures(measured, train, picture_of(train))
    assert [row["name"] for row in found] == [
        "class 0,\nleft", "class 0,\nright", "class 1,\nleft", "class 1,\nright"
    ]  # fmt: skip
    longest = measured.iloc[1::2].reset_index(drop=True)
    for row, edit in zip(found, longest.itertuples(), strict=True):
        assert row["image"][0, 0, 0] == train.image_id.index(edit.image_id)
        assert row["caption"] == f"edit {edit.relative_length:.2f}"
        for when in ("before", "after"):
            ids = getattr(edit, f"nearest_{when}")[:NEAREST]
            assert [picture[0, 0, 0] for picture, _, _ in row[when]] == [train.image_id.index(one) for one in ids]
            for one, (_, name, differs) in zip(ids, row[when], strict=True):
                own = train.image_id.index(one)
                assert name == f"class {train.y[own]},\n{train.attribute_names[train.attribute[own]]}"
                assert differs == (train.attribute[own] != edit.attribute)
    assert any(differs for row in found for _, _, differs in row["after"])


def test_of_unknown_attributes_none_differs(edits):
    measured, train = edits
    blind = replace(train, attribute=torch.full_like(train.attribute, -1))
    found = neighbor_pictures(measured.assign(attribute=pd.NA), blind, picture_of(blind))
    assert len(found) == 8
    assert found[0]["name"] == "class 0,\nunknown"
    assert not any(differs for row in found for _, _, differs in row["before"] + row["after"])

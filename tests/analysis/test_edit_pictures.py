from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.analysis import edit_pictures
from hsfm.analysis.edit_pictures import NEAREST, in_plane, neighbor_pictures
from hsfm.analysis.edits import EditSettings, class_direction, measure, spurious_direction
from hsfm.features import standardize
from hsfm.report.edit_figures import draw_plane
from tests.analysis.small import support_of
from tests.conftest import planted


def test_the_axes_are_the_spurious_and_the_class_direction(splits):
    tr, val = splits["train"], splits["val"]
    across, up = spurious_direction(tr, val)[1], class_direction(val)
    found = in_plane(support_of(tr, [0, 1, 2], 2 * across), tr, val)
    moved = found["after"] - found["before"]
    np.testing.assert_allclose(moved[:, 0], 2, rtol=1e-4)
    np.testing.assert_allclose(moved[:, 1], 2 * float(across @ up), atol=1e-4)
    assert found["labels"] == (edit_pictures.SPURIOUS, edit_pictures.CLASS)
    assert list(found["points"]) == ["class 0, left", "class 0, right", "class 1, left", "class 1, right"]
    assert [len(points) for points in found["points"].values()] == [60] * 4
    own = (val.y == 1) & (val.attribute == 0)
    np.testing.assert_allclose(found["points"]["class 1, left"][:, 1], val.features[own] @ up, rtol=1e-4, atol=1e-4)


def test_without_attributes_features_lie_along_their_first_component(splits):
    blind = [replace(part, attribute=torch.full_like(part.attribute, -1)) for part in (splits["train"], splits["val"])]
    found = in_plane(support_of(blind[0], [0, 1, 2]), *blind)
    assert found["labels"][0] == "along the first principal component"
    assert list(found["points"]) == ["class 0, unknown", "class 1, unknown"]
    spread = np.concatenate(list(found["points"].values()))[:, 0].std()
    assert spread == pytest.approx(float(torch.linalg.svdvals(
        blind[1].features - blind[1].features.mean(0))[0]) / len(blind[1].y) ** 0.5, rel=0.05)  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
def test_a_wild_column_stretches_no_axis(known):
    """It is active in three of 300 training rows, and reaches 500 deviations in one of validation."""
    tr, val = planted("train", [75] * 4, seed=0), planted("val", [75] * 4, seed=1)
    tr, val = (replace(part, features=torch.cat([part.features, torch.zeros(300, 1)], 1)) for part in (tr, val))
    tr.features[:3, -1] = 1.0
    val.features[7, -1] = 500 * tr.features[:, -1].std()
    scaled = standardize.fit(tr.features)
    parts = [replace(part, features=scaled.apply(part.features)) for part in (tr, val)]
    parts = parts if known else [part.without_attributes() for part in parts]
    plane = in_plane(support_of(tr, [3, 4, 5]), *parts)
    points = np.concatenate([*plane["points"].values()])
    usual = np.subtract(*np.quantile(points, (0.99, 0.01), axis=0))
    for axis in draw_plane(**plane, title="").axes:
        assert np.ptp(axis.get_xlim()) < 3 * usual[0]
        assert np.ptp(axis.get_ylim()) < 3 * usual[1]
    assert abs(edit_pictures._axes(*parts)[0][-1]).max() < 0.2


def test_of_many_images_some_are_drawn(splits, monkeypatch):
    monkeypatch.setattr(edit_pictures, "SHOWN", 40)
    monkeypatch.setattr(edit_pictures, "ARROWS", 3)
    tr, rows = splits["train"], [9, 4, 7, 2, 8]
    found = in_plane(support_of(tr, rows), tr, splits["val"])
    assert sum(map(len, found["points"].values())) == 40
    assert len(found["before"]) == len(found["after"]) == 3
    words = [f"class {tr.y[row]}, {tr.attribute_names[tr.attribute[row]]}" for row in (9, 7, 8)]
    assert list(found["names"]) == words


@pytest.fixture(scope="module")
def edits():
    """Two rows of each group; the second of each goes much further, along the attribute."""
    train, val = planted("train", [20] * 4, seed=0), planted("val", [10] * 4, seed=1)
    rows = [row for group in range(4) for row in (train.group == group).nonzero()[:2, 0].tolist()]
    shift = torch.zeros(8, 12)
    shift[:, 0] = torch.where(train.attribute[rows] == 0, 1.0, -1.0) * torch.tensor([0.1, 6.0] * 4)
    return measure(support_of(train, rows, shift), train, val, settings=EditSettings())[0], train


def picture_of(train):
    """An image that tells its row."""
    place = {image_id: row for row, image_id in enumerate(train.image_id)}
    return lambda ids: [np.full((2, 2, 3), place[one], np.uint8) for one in ids]


def test_longest_edits_of_each_group_with_their_neighbors(edits, monkeypatch):
    monkeypatch.setattr("hsfm.analysis.edit_pictures.EDITS", 4)
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

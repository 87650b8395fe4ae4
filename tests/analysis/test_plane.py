from dataclasses import replace

import numpy as np
import pytest
import torch

from hsfm.analysis import plane
from hsfm.analysis.edits import class_direction, spurious_direction
from hsfm.methods.hsfm.support import Support


def support_of(part, rows, edits=0.0) -> Support:
    before = part.features[rows]
    ids = tuple(part.image_id[row] for row in rows)
    return Support((0,) * len(rows), ids, part.y[rows], before, before + edits, part.checkpoint_sha256)


def test_the_axes_are_the_spurious_and_the_class_direction(splits):
    tr, val = splits["train"], splits["val"]
    across, up = spurious_direction(tr, val)[1], class_direction(val)
    found = plane.in_plane(support_of(tr, [0, 1, 2], 2 * across), tr, val)
    moved = found.after - found.before
    np.testing.assert_allclose(moved[:, 0], 2, rtol=1e-4)
    np.testing.assert_allclose(moved[:, 1], 2 * float(across @ up), atol=1e-4)
    assert found.labels == (plane.SPURIOUS, plane.CLASS)
    assert list(found.points) == ["class 0, left", "class 0, right", "class 1, left", "class 1, right"]
    assert [len(points) for points in found.points.values()] == [60] * 4
    own = (val.y == 1) & (val.attribute == 0)
    np.testing.assert_allclose(found.points["class 1, left"][:, 1], val.features[own] @ up, rtol=1e-4, atol=1e-4)


def test_without_attributes_features_lie_along_their_first_component(splits):
    blind = [replace(part, attribute=torch.full_like(part.attribute, -1)) for part in (splits["train"], splits["val"])]
    found = plane.in_plane(support_of(blind[0], [0, 1, 2]), *blind)
    assert found.labels[0] == "along the first principal component"
    assert list(found.points) == ["class 0, unknown", "class 1, unknown"]
    spread = np.concatenate(list(found.points.values()))[:, 0].std()
    assert spread == pytest.approx(float(torch.linalg.svdvals(
        blind[1].features - blind[1].features.mean(0))[0]) / len(blind[1].y) ** 0.5, rel=0.05)  # fmt: skip


def test_of_many_images_some_are_drawn(splits, monkeypatch):
    monkeypatch.setattr(plane, "SHOWN", 40)
    monkeypatch.setattr(plane, "ARROWS", 3)
    tr, rows = splits["train"], [9, 4, 7, 2, 8]
    found = plane.in_plane(support_of(tr, rows), tr, splits["val"])
    assert sum(map(len, found.points.values())) == 40
    assert len(found.before) == len(found.after) == 3
    words = [f"class {tr.y[row]}, {tr.attribute_names[tr.attribute[row]]}" for row in (9, 7, 8)]
    assert list(found.names) == words

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.analysis.mask_pictures import SHOWN, as_picture, compositions, mask_pictures, some_of_each_group
from hsfm.data.pixels import pack as pack_pixels
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.methods.dac.masks import Masks, pack
from hsfm.models.backbone import build_network

TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def rows_of(groups: list[tuple[int, int | None]]) -> pd.DataFrame:
    frame = pd.DataFrame(groups, columns=["y", "attribute"]).astype({"attribute": "Int32"})
    return frame.set_index(frame.index + 100)


def test_two_of_each_group_where_they_fit():
    rows, note = some_of_each_group(rows_of([(1, 0), (0, 1), (0, 1), (1, 0), (0, 1), (0, None)]))
    assert rows.index.tolist() == [101, 102, 105, 100, 103]
    assert note == ""


def test_some_of_many_groups():
    rows, note = some_of_each_group(rows_of([(y, a) for y in range(10) for a in (1, 0)] * 2))
    assert len(rows) == SHOWN
    assert set(rows["y"]) == set(range(10))
    assert rows.groupby(["y", "attribute"]).ngroups == SHOWN
    assert note == f" ({SHOWN} of 20 groups)"


def test_as_picture_undoes_the_transform():
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    np.testing.assert_array_equal(as_picture(prepare(pack_pixels([picture]), TRANSFORM)[0], TRANSFORM), picture)


def test_compositions_show_the_kept_part_and_a_partner_of_another_class():
    shown = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2).contiguous()
    kept = torch.zeros(4, 2, 2, dtype=torch.bool)
    kept[:, 0] = True
    first, last = compositions(shown, kept, torch.tensor([0, 1, 0, 1]))
    assert first[:, 0, 0, 0].tolist() == last[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    # below, where the mask keeps nothing of either
    assert first[:, 0, 1, 0].tolist() == [1, 0, 1, 0]
    assert last[:, 0, 1, 0].tolist() == [3, 2, 3, 2]


@pytest.mark.parametrize("invert", [False, True])
def test_a_row_per_image(invert):
    torch.manual_seed(0)
    pictures = [np.random.default_rng(n).integers(0, 256, (64, 64, 3), np.uint8) for n in range(2)]
    kept = torch.rand(2, 64, 64) < 0.5
    known = Masks(("a", "b"), pack(kept), (64, 64), None, {})
    cuts = pd.DataFrame({"cut": [0.1, 0.2], "knee": [True, False], "loss": list(np.eye(2))})
    cut = Masks(("a", "b"), pack(kept), (64, 64), cuts, {})
    network = build_network("resnet18", 2, pretrained=False)
    rows = mask_pictures(network, pack_pixels(pictures), torch.tensor([0, 1]), cut, TRANSFORM, invert=invert)
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(row["image"], pictures[number])
        np.testing.assert_array_equal(row["mask"], kept[number].numpy() ^ invert)
        assert row["heat"].shape == (64, 64)
        assert len(row["composed"]) == 2
        np.testing.assert_array_equal(row["composed"][0][row["mask"]], pictures[number][row["mask"]])
    assert [(round(row["cut"], 6), row["knee"], row["loss"].tolist()) for row in rows] == [
        (0.1, True, [1, 0]), (0.2, False, [0, 1])
    ]  # fmt: skip
    (first, _) = mask_pictures(network, pack_pixels(pictures), torch.tensor([0, 1]), known, TRANSFORM, invert=invert)
    assert (first["loss"], first["cut"], first["knee"]) == (None, None, None)

import numpy as np
import pytest

from hsfm.methods.ddb.cut_paste import box, cut_paste, erase, leaves_surroundings

HOW = {"margin": 1, "radius": 3}


def scene(height: int, width: int, color: int) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def rectangle(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_new_object_lies_where_the_old_one_was_and_nothing_else_changes():
    image, giver = scene(40, 30, 100), scene(40, 30, 20)
    old, new = rectangle((40, 30), 10, 8, 8, 6), rectangle((40, 30), 25, 3, 4, 10)
    image[old] = 200
    giver[new] = np.arange(40 * 3).reshape(40, 3)
    pasted, where = cut_paste(image, old, giver, new, **HOW)
    assert box(where) == (12, 6, 16, 16), "its box has the center of the old one's"
    np.testing.assert_array_equal(pasted[where], giver[new])
    np.testing.assert_allclose(pasted[~where], 100, atol=3, err_msg="the scene, and its object is gone")
    kept = ~rectangle((40, 30), 9, 7, 10, 8) & ~where
    np.testing.assert_array_equal(pasted[kept], image[kept])
    assert (image[old] == 200).all(), "what was given stays as it is"


def test_erasing_takes_the_margin_along_and_leaves_the_rest():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = rectangle((32, 32), 10, 10, 6, 6)
    erased = erase(image, mask, margin=2, radius=3)
    changed = (erased != image).any(-1)
    assert not changed[:8].any()
    assert not changed[:, 18:].any()
    assert changed[11, 9]
    assert changed[12, 8], "the margin is erased as well"


@pytest.mark.parametrize(("top", "left"), [(0, 0), (36, 26)])
def test_an_object_near_the_edge_is_moved_inside(top, left):
    image, giver = scene(40, 30, 100), scene(40, 30, 20)
    pasted, where = cut_paste(
        image, rectangle((40, 30), top, left, 4, 4), giver, rectangle((40, 30), 5, 5, 20, 20), **HOW
    )
    assert where.sum() == 400
    assert (pasted[where] == 20).all()


def test_an_object_keeps_its_share_of_the_image():
    """From an image twice as large, and from one that is wider than the scene."""
    image, giver = scene(40, 30, 100), scene(80, 60, 20)
    _, where = cut_paste(image, rectangle((40, 30), 15, 10, 10, 10), giver, rectangle((80, 60), 0, 0, 20, 30), **HOW)
    assert where.any(1).sum() == 10
    assert where.any(0).sum() == 15
    wide = scene(30, 90, 20)
    pasted, where = cut_paste(
        image, rectangle((40, 30), 15, 10, 10, 10), wide, rectangle((30, 90), 5, 0, 20, 80), **HOW
    )
    assert where.any(0).all(), "cut at the edges, and not a pixel beyond"
    assert (pasted[where] == 20).all()


def test_whether_anything_is_left_of_the_scene():
    whole, nearly = np.ones((8, 8), bool), np.ones((8, 8), bool)
    nearly[0, 0] = False
    assert not leaves_surroundings(whole, margin=0)
    assert leaves_surroundings(nearly, margin=0)
    assert not leaves_surroundings(nearly, margin=1)

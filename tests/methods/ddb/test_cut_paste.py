import numpy as np
import pandas as pd
import pytest

from hsfm.methods.ddb.cut_paste import NO_DONOR, NO_SCENE, CutPasteSettings, Paster, box, cut_paste, erase
from hsfm.methods.ddb.generated import NOTHING_FOUND, as_png, plan, read_png

HOW = {"margin": 1, "radius": 3}
GENERATOR = np.random.default_rng(0)
PIXELS = {name: GENERATOR.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name in "abcdef"}


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
    assert box(where) == (slice(12, 16), slice(6, 16)), "its box has the center of the old one's"
    np.testing.assert_array_equal(pasted[where], giver[new])
    np.testing.assert_allclose(pasted[~where], 100, atol=3, err_msg="the scene, and its object is gone")
    kept = ~rectangle((40, 30), 9, 7, 10, 8) & ~where
    np.testing.assert_array_equal(pasted[kept], image[kept])


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


MASKS = {name: rectangle((12, 12), 3, 2, size, size) for name, size in (("a", 4), ("b", 5), ("d", 3))}
MASKS["e"] = rectangle((12, 12), 0, 0, 12, 11)  # covers the whole image with its margin


def pasted(y: list[int]) -> list[dict]:
    masks = [as_png(MASKS[name]) if name in MASKS else None for name in PIXELS]
    objects = pd.DataFrame({"image_id": list(PIXELS), "y": y, "mask": masks})
    rows, counted = plan(objects, ["x", "y"], images_per_source=3, seed=5), []
    paster = Paster(objects, lambda ids: [PIXELS[one] for one in ids], CutPasteSettings(**HOW))
    made = list(paster(rows, threads=3, done=counted.append))
    assert sum(counted) == len(rows) == 18
    assert [row["image_id"] for row in made] == rows["image_id"].tolist()
    return made


def test_donors_have_an_object_and_are_of_the_other_class():
    made = pasted([0, 0, 0, 1, 1, 1])
    for row in made:
        if "why_not" in row:
            assert row["mask_area"] == 0.0
            assert row["why_not"] == {"c": NOTHING_FOUND, "f": NOTHING_FOUND, "e": NO_SCENE}[row["source_id"]]
            continue
        assert row["donor_id"] in {"a": "de", "b": "de", "d": "ab"}[row["source_id"]]
        source, donor = row["source_id"], row["donor_id"]
        image, where = cut_paste(PIXELS[source], MASKS[source], PIXELS[donor], MASKS[donor], **HOW)
        np.testing.assert_array_equal(read_png(row["image"]), image)
        np.testing.assert_array_equal(read_png(row["mask"]), where)
        assert row["mask_area"] == pytest.approx(where.mean())
    assert len({(row["source_id"], row["donor_id"]) for row in made if "donor_id" in row}) > 3, "drawn anew each time"


def test_a_class_without_any_object_gives_none():
    made = pasted([0, 0, 1, 0, 0, 1])
    reasons = {row["source_id"]: row["why_not"] for row in made if "why_not" in row}
    assert reasons == {**dict.fromkeys("abde", NO_DONOR), **dict.fromkeys("cf", NOTHING_FOUND)}

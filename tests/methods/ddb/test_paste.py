import numpy as np
import pandas as pd
import pytest

from hsfm.methods.ddb.cut_paste import CutPasteSettings, cut_paste
from hsfm.methods.ddb.generated import NOTHING_FOUND, as_png, plan, read_png
from hsfm.methods.ddb.paste import NO_DONOR, NO_SCENE, Paster

HOW = {"margin": 1, "radius": 3}
GENERATOR = np.random.default_rng(0)
PIXELS = {name: GENERATOR.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name in "abcdef"}


def square(size: int) -> np.ndarray:
    mask = np.zeros((12, 12), bool)
    mask[3 : 3 + size, 2 : 2 + size] = True
    return mask


MASKS = {"a": square(4), "b": square(5), "d": square(3), "e": np.ones((12, 12), bool)}


def pasted(y: list[int], threads: int = 1) -> list[dict]:
    masks = [as_png(MASKS[name]) if name in MASKS else None for name in PIXELS]
    objects = pd.DataFrame({"image_id": list(PIXELS), "y": y, "mask": masks})
    rows, counted = plan(objects, ["x", "y"], images_per_source=3, seed=5), []
    paster = Paster(objects, lambda ids: [PIXELS[one] for one in ids], CutPasteSettings(**HOW))
    made = list(paster(rows, threads=threads, done=counted.append))
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


def test_threads_change_nothing():
    assert pasted([0, 0, 0, 1, 1, 1], threads=3) == pasted([0, 0, 0, 1, 1, 1])


def test_a_class_without_any_object_gives_none():
    made = pasted([0, 0, 1, 0, 0, 1])
    reasons = {row["source_id"]: row["why_not"] for row in made if "why_not" in row}
    assert reasons == {**dict.fromkeys("abde", NO_DONOR), **dict.fromkeys("cf", NOTHING_FOUND)}

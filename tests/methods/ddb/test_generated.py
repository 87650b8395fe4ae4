import numpy as np
import pandas as pd
import pytest

from hsfm.core.files import write_parquet
from hsfm.methods.ddb.generated import OBJECTS, PRUNED, as_png, as_table, plan, read_png, read_table, seed_of

SOURCES = pd.DataFrame({"image_id": ["a", "b", "c"], "y": [0, 1, 2]})


def test_the_plan_takes_the_other_classes_in_turn():
    rows = plan(SOURCES, ["x", "y", "z"], images_per_source=3, seed=4, tokens=["<x>", "<y>", "<z>"])
    assert rows["y"].tolist() == [1, 2, 1, 2, 0, 2, 0, 1, 0]
    assert rows["token"].tolist() == [f"<{'xyz'[y]}>" for y in rows["y"]]
    assert rows["image_id"].tolist()[:3] == ["a:y:0", "a:z:1", "a:y:2"]
    two = plan(SOURCES.iloc[:2], ["x", "y"], images_per_source=2, seed=4)
    assert two["y"].tolist() == [1, 1, 0, 0]
    assert two["token"].isna().all()


def test_seeds_depend_on_the_image_alone():
    """Neither on its place, nor on how many others there are."""
    rows = plan(SOURCES, ["x", "y", "z"], images_per_source=2, seed=4).set_index("image_id")["seed"]
    fewer = plan(SOURCES.iloc[::-2], ["x", "y", "z"], images_per_source=4, seed=4).set_index("image_id")["seed"]
    both = rows.index.intersection(fewer.index)
    assert len(both) == 4
    assert (rows[both] == fewer[both]).all()
    assert rows.is_unique
    assert (plan(SOURCES, ["x", "y", "z"], images_per_source=2, seed=5)["seed"].to_numpy() != rows.to_numpy()).all()
    assert 0 <= seed_of(0, "a") < 2**63


def test_pixels_and_masks_come_back_to_the_last_bit():
    generator = np.random.default_rng(0)
    for picture in (generator.integers(0, 256, (13, 7, 3), dtype=np.uint8), generator.random((13, 7)) < 0.5):
        back = read_png(as_png(picture))
        np.testing.assert_array_equal(back, picture)
        assert back.dtype == picture.dtype


def test_tables_come_back_and_what_is_missing_is_none(tmp_path):
    path = tmp_path / "objects.parquet"
    rows = [{"image_id": "a", "y": 0, "area": 0.5, "mask": b"png"}, {"image_id": "b", "y": 1, "area": 0.0}]
    write_parquet(path, as_table(rows, OBJECTS, {"dataset": "toy", "run": 0, "classes": ["x", "y"]}), {})
    frame, metadata = read_table(path, OBJECTS)
    assert frame["mask"].tolist() == [b"png", None]
    assert frame["boxes"].tolist() == [None, None]
    assert metadata["classes"] == ["x", "y"]
    with pytest.raises(ValueError, match=r"objects.parquet: no column 'source_id'"):
        read_table(path, PRUNED)

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hsfm.core.files import write_parquet
from hsfm.methods.ddb.generated import (
    GENERATED,
    OBJECTS,
    PRUNED,
    as_png,
    as_table,
    mask_as_png,
    plan,
    read_mask,
    read_png,
    read_table,
    seed_of,
)

SOURCES = pd.DataFrame({"image_id": ["a", "b", "c"], "y": [0, 1, 2]})
METADATA = {"dataset": "toy", "run": 0, "classes": ["x", "y", "z"]}


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
    pixels = generator.integers(0, 256, (13, 7, 3), dtype=np.uint8)
    mask = generator.random((13, 7)) < 0.5
    np.testing.assert_array_equal(read_png(as_png(pixels)), pixels)
    np.testing.assert_array_equal(read_mask(mask_as_png(mask)), mask)
    assert read_mask(mask_as_png(mask)).dtype == bool


def test_tables_come_back_and_what_is_missing_is_none(tmp_path):
    path = tmp_path / "objects.parquet"
    rows = [{"image_id": "a", "y": 0, "area": 0.5, "mask": b"png"}, {"image_id": "b", "y": 1, "area": 0.0}]
    write_parquet(path, as_table(rows, OBJECTS, METADATA), {})
    frame, metadata = read_table(path, OBJECTS)
    assert frame["mask"].tolist() == [b"png", None]
    assert frame["boxes"].tolist() == [None, None]
    assert metadata["classes"] == ["x", "y", "z"]
    frame.loc[0, "score"] = float("nan")
    assert as_table(frame, OBJECTS, METADATA)["score"].null_count == 2, "NaN is missing too"


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "generated.parquet"
    with pytest.raises(ValueError, match="metadata lacks 'run'"):
        as_table([], GENERATED, {"dataset": "toy"})
    write_parquet(path, as_table([{"image_id": "a"}, {"image_id": "a"}], GENERATED, METADATA), {})
    with pytest.raises(ValueError, match=r"generated.parquet: image id 'a' is twice"):
        read_table(path, GENERATED)
    with pytest.raises(ValueError, match=r"generated.parquet: no column 'attribution'"):
        read_table(path, PRUNED)
    write_parquet(path, pa.table({"image_id": ["a"]}), {})
    with pytest.raises(ValueError, match=r"generated.parquet: no column 'y'"):
        read_table(path, OBJECTS)

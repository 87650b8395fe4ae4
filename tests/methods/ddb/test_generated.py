from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.core.files import write_parquet
from hsfm.data.transforms import TransformSettings
from hsfm.methods.ddb.generated import (
    OBJECTS,
    PRUNED,
    as_png,
    as_table,
    choose_sources,
    masks_of,
    plan,
    read_png,
    read_table,
    seed_of,
    take_objects,
)
from hsfm.methods.ddb.segment import find_objects
from tests.conftest import planted

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


def test_sources_are_the_images_of_lowest_loss_of_each_class(splits, erm_head):
    train = splits["train"]
    sources = choose_sources(erm_head, train, 7)
    loss = cross_entropy(erm_head.logits(train.features), train.y, reduction="none")
    for y in (0, 1):
        expected = sorted((float(loss[i]), train.image_id[i]) for i in range(len(train.y)) if train.y[i] == y)[:7]
        part = sources[sources["y"] == y]
        assert part["image_id"].tolist() == [name for _, name in expected]
        assert part["rank"].tolist() == list(range(1, 8))
        np.testing.assert_allclose(part["loss"], [value for value, _ in expected])


def test_a_class_with_few_images_gives_all(erm_head):
    train = planted("train", [3, 1, 5, 5], seed=3)
    sources = choose_sources(erm_head, train, 6)
    assert sources.groupby("y").size().tolist() == [4, 6]
    with pytest.raises(ValueError, match="DDB was given the test split"):
        choose_sources(erm_head, planted("test", [1] * 4, seed=0), 1)


PLAIN = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
PIXELS = {name: np.zeros((4, 6, 3), np.uint8) for name in "abc"}


def pictures(ids):
    return [PIXELS[one] for one in ids]


def test_objects_out_of_masks_and_none_where_a_mask_is_empty():
    seen = torch.zeros(3, 4, 6, dtype=torch.bool)
    seen[0, 1:3, 2:5] = True
    seen[2] = True
    rows = list(take_objects(SOURCES, seen, pictures, PLAIN))
    assert [row["area"] for row in rows] == [0.25, 0.0, 1.0]
    assert rows[1]["mask"] is None
    np.testing.assert_array_equal(read_png(rows[0]["mask"]), seen[0])
    table = as_table(rows, OBJECTS, {"dataset": "toy", "run": 0, "classes": ["x", "y"]})
    assert table["boxes"].null_count == 3, "no detector looked for them"
    masks = masks_of(pd.DataFrame(rows))
    assert list(masks) == ["a", "c"]
    assert masks["c"].all()


def test_objects_that_a_detector_finds_batch_by_batch():
    sizes, counted = [], []
    found = SimpleNamespace(boxes=torch.zeros(2, 4), scores=torch.tensor([0.75, 0.5]), mask=np.eye(4, 6, dtype=bool))
    nothing = SimpleNamespace(boxes=torch.zeros(0, 4), scores=torch.zeros(0), mask=None)

    def segment(images):
        sizes.append(len(images))
        return [found] * (len(images) - 1) + [nothing]

    rows = list(find_objects(SOURCES, pictures, segment, 2, counted.append))
    assert sizes == counted == [2, 1]
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    assert [(row["boxes"], row["score"], row["area"]) for row in rows] == [
        (2, 0.75, 4 / 24),
        (0, None, 0.0),
        (0, None, 0.0),
    ]

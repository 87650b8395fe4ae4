from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from hsfm.data.transforms import TransformSettings
from hsfm.methods.ddb.generated import OBJECTS, as_table, read_png
from hsfm.methods.ddb.objects import find_objects, masks_of, take_objects

SOURCES = pd.DataFrame({"image_id": ["a", "b", "c"], "y": [0, 1, 0]})
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

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hsfm.core.files import write_array
from hsfm.data.open_images import EXAMPLES, open_pictures, read_examples
from hsfm.data.table import ImageTable, complete, write_images

ROWS = pd.DataFrame(
    {
        "image_id": [f"i{i}" for i in range(6)],
        "y": np.arange(6) % 2,
        "attribute": 0,
        "split": np.repeat(["train", "val", "test"], 2),
    }
)


def write(path, rows: pd.DataFrame, folder: str = "") -> None:
    write_images(path, ImageTable(complete(rows, ("x",)), "toy", ("a", "b"), ("x",), folder))


@pytest.fixture
def packed(tmp_path):
    """A table whose images lie in an array in reverse, and that array."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    write_array(tmp_path / "pixels.npy", pixels)
    rows = ROWS.assign(path="pixels.npy", index=np.arange(6)[::-1], height=4, width=5)
    write(tmp_path / "images.parquet", rows)
    return tmp_path / "images.parquet", pixels


def test_pictures_by_id_out_of_an_array(packed):
    path, pixels = packed
    pictures = open_pictures(path)
    np.testing.assert_array_equal(pictures(["i4", "i0", "i4"]), pixels[[1, 5, 1]])


def test_pictures_by_id_out_of_files_of_several_sizes(tmp_path):
    arrays = {f"i{number}": np.full((4 + number, 5, 3), number, np.uint8) for number in range(6)}
    for name, array in arrays.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    rows = ROWS.assign(path=ROWS["image_id"] + ".png", height=4 + np.arange(6), width=5)
    write(tmp_path / "images.parquet", rows, str(tmp_path))
    for name, found in zip(["i5", "i1"], open_pictures(tmp_path / "images.parquet")(["i5", "i1"]), strict=True):
        np.testing.assert_array_equal(found, arrays[name])


def test_examples_are_drawn_from_each_group(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (45, 4, 5, 3), np.uint8)
    write_array(tmp_path / "pixels.npy", pixels)
    rows = pd.DataFrame({"y": [0] * 40 + [1] + [0, 1] * 2, "split": ["train"] * 41 + ["val"] * 2 + ["test"] * 2})
    rows["attribute"] = pd.array([0] * 40 + [None] + [0] * 4, "Int32")
    ids = [f"i{number}" for number in range(45)]
    write(tmp_path / "images.parquet", rows.assign(image_id=ids, path="pixels.npy", index=rows.index))
    examples, again = (read_examples(tmp_path / "images.parquet") for _ in range(2))
    assert list(examples) == ["a, x, 97.6 %", "b, unknown, 2.4 %"]
    shown = [int((pixels == image).all((1, 2, 3)).nonzero()[0][0]) for image in examples["a, x, 97.6 %"]]
    assert len(set(shown)) == EXAMPLES
    assert max(shown) < 40, "of the group"
    assert max(shown) >= EXAMPLES, "not its first rows"
    np.testing.assert_array_equal(examples["a, x, 97.6 %"], again["a, x, 97.6 %"])
    np.testing.assert_array_equal(examples["b, unknown, 2.4 %"], pixels[40:41])

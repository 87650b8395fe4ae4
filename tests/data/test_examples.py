import numpy as np
import pandas as pd
from PIL import Image

from hsfm.data.examples import SHOWN, read_examples
from hsfm.data.table import ImageTable, complete, write_images


def write(path, pixels, *, files: bool) -> None:
    """Train: ten of (cat, in), one of (dog, unknown); val and test: both classes."""
    rows = pd.DataFrame({"y": [0] * 10 + [1] + [0, 1] * 2, "split": ["train"] * 11 + ["val"] * 2 + ["test"] * 2})
    rows["attribute"] = pd.array([0] * 10 + [None] + [0] * 4, "Int32")
    rows["image_id"] = [f"i{n}" for n in range(15)]
    rows["path"] = [f"{n}.png" for n in range(15)] if files else "pixels.npy"
    rows["index"] = pd.array([None if files else n for n in range(15)], "Int64")
    rows = rows.assign(height=4, width=5)
    folder = str(path.parent) if files else ""
    write_images(path, ImageTable(complete(rows, ("in",)), "pets", ("cat", "dog"), ("in",), folder))
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(path.parent / f"{number}.png")
    np.save(path.parent / "pixels.npy", pixels)


def test_the_first_of_each_group_from_files_and_from_an_array(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (15, 4, 5, 3), np.uint8)
    for files in (False, True):
        path = tmp_path / str(files) / "images.parquet"
        path.parent.mkdir()
        write(path, pixels, files=files)
        found = read_examples(path, lambda picture: picture[:2])
        assert list(found) == ["cat, in, 90.9 %", "dog, unknown, 9.1 %"]
        cats, dogs = found.values()
        shown = pixels[:, :2] if files else pixels
        np.testing.assert_array_equal(np.stack(cats), shown[:SHOWN])
        np.testing.assert_array_equal(np.stack(dogs), shown[10:11])

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hsfm.core.files import sha256, write_array
from hsfm.data.open_images import open_pictures, open_splits
from hsfm.data.table import ImageTable, complete, write_images


def rows(n: int) -> pd.DataFrame:
    splits = np.repeat(["train", "val", "test"], n // 3)
    return pd.DataFrame(
        {"image_id": [f"i{i}" for i in range(n)], "y": np.arange(n) % 2, "attribute": 0, "split": splits}
    )


def table(frame: pd.DataFrame, folder: str, hashes: dict[str, str]) -> ImageTable:
    return ImageTable(complete(frame, ("x",)), "toy", ("a", "b"), ("x",), folder, hashes)


def test_pictures_by_id_out_of_an_array(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    write_array(tmp_path / "pixels.npy", pixels)
    frame = rows(6).assign(path="pixels.npy", index=np.arange(6)[::-1], height=4, width=5)
    write_images(tmp_path / "images.parquet", table(frame, "", {"pixels.npy": sha256(tmp_path / "pixels.npy")}))
    pictures = open_pictures(tmp_path / "images.parquet")
    found = pictures(["i4", "i0", "i4"])
    np.testing.assert_array_equal(found, pixels[[1, 5, 1]])
    with pytest.raises(ValueError, match=r"images.parquet: lists no image 'i9'"):
        pictures(["i0", "i9"])


def test_pictures_by_id_out_of_files_of_several_sizes(tmp_path):
    frame, arrays = rows(6), {}
    for number, name in enumerate(frame["image_id"]):
        arrays[name] = np.full((4 + number, 5, 3), number, np.uint8)
        Image.fromarray(arrays[name]).save(tmp_path / f"{name}.png")
    frame = frame.assign(path=frame["image_id"] + ".png", height=4 + np.arange(6), width=5)
    write_images(tmp_path / "images.parquet", table(frame, str(tmp_path), {}))
    for name, found in zip(["i5", "i1"], open_pictures(tmp_path / "images.parquet")(["i5", "i1"]), strict=True):
        np.testing.assert_array_equal(found, arrays[name])


def test_images_of_a_split_have_to_be_those_of_the_embeddings(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    write_array(tmp_path / "pixels.npy", pixels)
    frame = rows(6).assign(path="pixels.npy", index=np.arange(6)[::-1], height=4, width=5)
    write_images(tmp_path / "images.parquet", table(frame, "", {"pixels.npy": sha256(tmp_path / "pixels.npy")}))
    images = open_splits(tmp_path / "images.parquet", None, {"val": ("i2", "i3"), "test": ("i5", "i4")})
    np.testing.assert_array_equal(images("val").stacked().permute(0, 2, 3, 1), pixels[[3, 2]])
    with pytest.raises(ValueError, match=r"images.parquet: lists other test images than the embeddings"):
        images("test")

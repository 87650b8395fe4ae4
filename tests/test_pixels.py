import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.files import write_array
from hsfm.pixels import ImageFiles, PackedPixels, common_size, inspect, open_pixels


@pytest.fixture
def packed(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)
    write_array(tmp_path / "pixels.npy", array)
    return tmp_path, array


def rows(index):
    return pd.DataFrame({"path": "pixels.npy", "index": index})


def test_batches_are_the_rows_asked_for_in_that_order(packed):
    folder, array = packed
    pixels = PackedPixels(rows([9, 4, 4, 0]), folder)
    assert len(pixels) == 4
    batch = pixels.batch(torch.tensor([3, 0, 1]))
    assert batch.dtype == torch.uint8
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), array[[0, 9, 4]])


def test_unreadable_arrays_are_named(packed):
    folder, _ = packed
    with pytest.raises(ValueError, match=r"pixels.npy: holds 10 images, but the table asks for 10"):
        PackedPixels(rows([10]), folder)
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"pixels.npy: not a readable packed array, perhaps truncated"):
        PackedPixels(rows([0]), folder)
    write_array(path, np.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match=r"pixels.npy: holds float64"):
        PackedPixels(rows([0]), folder)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        PackedPixels(rows([0]), folder)


@pytest.fixture
def photos(tmp_path):
    """Three image files of different sizes, one of them broken."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((4, 6), (5, 5))]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    rows = pd.DataFrame({"path": ["0.png", "1.png", "2.png"], "index": pd.array([None] * 3, "Int64")})
    return tmp_path, rows, images


def test_image_files_come_in_the_order_asked_for(photos):
    folder, rows, images = photos
    pixels = open_pixels(rows, folder)
    assert isinstance(pixels, ImageFiles)
    assert len(pixels) == 3
    for found, number in zip(pixels.batch(torch.tensor([1, 0, 1])), (1, 0, 1), strict=True):
        assert torch.equal(found, torch.from_numpy(images[number]).permute(2, 0, 1))
    with pytest.raises(ValueError, match=r"2\.png"):
        pixels.batch(torch.tensor([0, 2]))


def test_packed_images_are_recognised(packed):
    assert isinstance(open_pixels(rows([1, 2]), packed[0]), PackedPixels)


def test_every_image_is_looked_at(photos):
    folder, rows, _ = photos
    found = inspect(rows.set_index(pd.Index([7, 8, 9])), folder, workers=2)
    assert found.index.tolist() == [7, 8, 9]
    assert found["height"].tolist()[:2] == [4, 5]
    assert found["width"].tolist()[:2] == [6, 5]
    assert found["problem"].isna().tolist() == [True, True, False]
    assert pd.isna(found.loc[9, "height"])
    assert str(folder) not in found.loc[9, "problem"]


def test_a_common_size_is_there_or_not():
    same = pd.DataFrame({"height": [3, 3], "width": [4, 4]})
    assert common_size(same) == [3, 4]
    assert common_size(same.assign(width=[4, 5])) is None

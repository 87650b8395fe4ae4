import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.files import write_array
from hsfm.pixels import PackedPixels


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

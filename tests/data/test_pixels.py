import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.core.files import write_array
from hsfm.data.pixels import ImageFiles, Images, image_batches, pack, read_packed

CPU = torch.device("cpu")


@pytest.fixture
def packed(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)
    write_array(tmp_path / "pixels.npy", array)
    return tmp_path, array


def rows(index):
    return pd.DataFrame({"path": "pixels.npy", "index": index})


def test_packed_images_are_the_rows_asked_for_in_that_order(packed):
    folder, array = packed
    images = read_packed(rows([9, 4, 4, 0]), folder)
    assert len(images) == 4
    assert images.shape == (8, 6)
    batch = images.take(torch.tensor([3, 0, 1])).stacked()
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), array[[0, 9, 4]])
    assert images.kept_on(CPU).shape == images.pinned().shape == (8, 6)
    assert torch.equal(images.kept_on(CPU).stacked(), images.stacked())


def test_unreadable_arrays_are_named(packed):
    folder, _ = packed
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"pixels.npy: not a readable packed array, perhaps truncated"):
        read_packed(rows([0]), folder)


@pytest.fixture
def several():
    """Arrays of several sizes."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((4, 6), (5, 5), (1, 9), (4, 6))]


def corners(stacked, arrays):
    for image, array in zip(stacked.permute(0, 2, 3, 1).numpy(), arrays, strict=True):
        assert np.array_equal(image[: array.shape[0], : array.shape[1]], array)


def test_images_of_several_sizes_lie_behind_one_another(several):
    images = pack(several)
    assert images.shape is None
    assert images.n_bytes == 3 * (24 + 25 + 9 + 24)
    for view, array in zip(images.each(), several, strict=True):
        assert np.array_equal(view.permute(1, 2, 0).numpy(), array)
        assert view.untyped_storage().data_ptr() == images.pixels.untyped_storage().data_ptr(), "no copy"
    order = torch.tensor([2, 0, 3])
    corners(images.take(order).stacked(), [several[i] for i in order])
    assert images.stacked().shape == (4, 3, 5, 9)
    corners(images[1:3].stacked(), several[1:3])
    same = images.take(torch.tensor([3, 0]))
    corners(same.stacked(), [several[3], several[0]])


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2]])
def test_copies_hold_the_images_asked_for_and_no_other(several, rows):
    chosen = pack(several).take(torch.tensor(rows))
    for copy in (chosen.kept_on(CPU), chosen.pinned().to(CPU)):
        assert len(copy.pixels) * 3 == chosen.n_bytes
        for view, row in zip(copy.each(), rows, strict=True):
            assert np.array_equal(view.permute(1, 2, 0).numpy(), several[row])


def test_images_that_do_not_start_at_a_whole_number_have_no_common_shape():
    pixels = torch.arange(30, dtype=torch.uint8).view(10, 3)
    shifted = Images.of(pixels, torch.tensor([[2, 2], [2, 2]]), torch.tensor([1, 5]))
    assert shifted.shape is None
    assert torch.equal(shifted.stacked()[1].permute(1, 2, 0).reshape(-1, 3), pixels[5:9])


@pytest.fixture
def photos(tmp_path):
    """Three image files of different sizes, one of them broken."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((4, 6), (5, 5))]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    return tmp_path, pd.DataFrame({"path": ["0.png", "1.png", "2.png"]}), images


def test_unreadable_files_are_named(photos):
    folder, rows, _ = photos
    with pytest.raises(ValueError, match=r"2\.png"):
        ImageFiles(rows, folder).read(torch.tensor([0, 2]))


def test_files_and_arrays_feed_the_same_batches(photos):
    folder, rows, images = photos
    order = torch.tensor([1, 0, 0, 1, 1])
    for source in (ImageFiles(rows, folder), pack(images)):
        batches = list(image_batches(source, order, 2, CPU))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        found = [view.permute(1, 2, 0).numpy() for batch in batches for view in batch.each()]
        assert all(np.array_equal(a, images[i]) for a, i in zip(found, order, strict=True))

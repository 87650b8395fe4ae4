"""Dominoes made of raw data and read from the authors' arrays, both against slow or foreign readers."""

import gzip
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from hsfm.data.sources import dominoes
from hsfm.data.table import Packed
from tests import replicas

SHARES = {"train": 0.9, "val": 0.5, "test": 0.5}


def pack(folder: Path) -> Packed:
    return dominoes.pack(dominoes.Settings(source="dominoes", folder=str(folder)))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dominoes")
    for layout in ("raw", "arrays"):
        replicas.write_dominoes(folder / layout, layout)
    return folder


@pytest.fixture
def raw(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "raw", tmp_path / "raw"))


@pytest.fixture
def arrays(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "arrays", tmp_path / "arrays"))


# Raw data -------------------------------------------------------------------------------------------------------------


def foreign_reading(folder: Path) -> dict:
    """MNIST by torchvision, CIFAR-10 by plain pickle: pairs of images and labels."""
    from torchvision.datasets import MNIST

    sets = {}
    for split, batches in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
        mnist = MNIST(folder, train=split == "train")
        cifar = []
        for name in batches:
            batch = pickle.loads((folder / "cifar-10-batches-py" / name).read_bytes(), encoding="latin1")
            cifar += zip(batch["data"], batch["labels"], strict=True)
        sets[split] = [(d.numpy(), int(y)) for d, y in zip(mnist.data, mnist.targets, strict=True)], cifar
    return sets


def domino(vehicle: np.ndarray, digit: np.ndarray) -> np.ndarray:
    """Pixel by pixel."""
    image = np.zeros((64, 32, 3), np.uint8)
    for y in range(32):
        for x in range(32):
            image[y, x] = [vehicle[1024 * channel + 32 * y + x] for channel in range(3)]
    for y in range(28):
        for x in range(28):
            image[34 + y, 2 + x] = digit[y, x]
    return image


def cut_slowly(folder: Path) -> list[tuple[str, int, int, np.ndarray]]:
    """The cutting rule with torch's own random_split: split, class, digit and pixels, in no order that matters."""
    sets, out = foreign_reading(folder), []
    for split in ("train", "val", "test"):
        parts = []
        for rows in sets["test" if split == "test" else "train"]:
            if split == "test":
                parts.append(list(rows))
            else:
                train, val = random_split(rows, [0.8, 0.2], generator=torch.Generator().manual_seed(42))
                parts.append(list(train if split == "train" else val))
        generator = torch.Generator().manual_seed(42)
        pools = []
        for part, label in ((0, 0), (0, 1), (1, 1), (1, 9)):
            pool = [image for image, found in parts[part] if found == label]
            pools.append([pool[i] for i in torch.randperm(len(pool), generator=generator).tolist()])
        n = min(len(pool) for pool in pools)
        agree = len(random_split(range(n), [SHARES[split], 1 - SHARES[split]])[0])
        zeros, ones, automobiles, trucks = (pool[:n] for pool in pools)
        out += [(split, 0, 0, domino(v, d)) for v, d in zip(automobiles[:agree], zeros[:agree], strict=True)]
        out += [(split, 0, 1, domino(v, d)) for v, d in zip(automobiles[agree:], ones[agree:], strict=True)]
        out += [(split, 1, 0, domino(v, d)) for v, d in zip(trucks[agree:], zeros[agree:], strict=True)]
        out += [(split, 1, 1, domino(v, d)) for v, d in zip(trucks[:agree], ones[:agree], strict=True)]
    return out


def test_raw_data_are_cut_and_paired_by_the_rule(originals):
    packed = pack(originals / "raw")
    expected = cut_slowly(originals / "raw")
    assert packed.pixels.shape == (len(expected), 64, 32, 3)
    assert packed.pixels.dtype == np.uint8
    for row, (split, y, digit, pixels) in zip(packed.rows.itertuples(), expected, strict=True):
        assert (row.split, row.y, row.attribute) == (split, y, digit)
        assert np.array_equal(packed.pixels[row.index], pixels)


def test_ids_say_which_images_meet_and_no_image_serves_twice(originals):
    packed = pack(originals / "raw")
    sets = foreign_reading(originals / "raw")
    used = {"train": [], "test": []}
    for row in packed.rows.itertuples():
        official = "test" if row.split == "test" else "train"
        split, vehicle, digit = row.image_id.replace("cifar", "").replace("mnist", "").split("-")
        assert split == row.split
        vehicle, digit = sets[official][1][int(vehicle)], sets[official][0][int(digit)]
        assert (vehicle[1], digit[1]) == ((1, 9)[row.y], row.attribute)
        assert np.array_equal(packed.pixels[row.index], domino(vehicle[0], digit[0]))
        used[official].append(row.image_id.split("-")[1:])
    for official in used.values():
        for side in zip(*official, strict=True):
            assert len(set(side)) == len(side)


@pytest.mark.parametrize(("n", "share"), [(980, 0.5), (3985, 0.9), (3990, 0.9), (4000, 0.9), (993, 0.5)])
def test_groups_are_as_large_as_random_splits(n, share):
    agree, differ = (len(part) for part in random_split(range(n), [share, 1 - share]))
    digits = np.zeros((2 * n, 28, 28), np.uint8), np.repeat([0, 1], n).astype(np.uint8)
    vehicles = np.zeros((2 * n, 3072), np.uint8), np.repeat([1, 9], n)
    split = "train" if share == 0.9 else "test"
    part = dominoes._compose(split, digits, np.arange(2 * n), vehicles, np.arange(2 * n))
    assert np.bincount(part.group).tolist() == [agree, differ, differ, agree]


@pytest.mark.parametrize("n", [20, 221, 60_000])
def test_the_cut_is_random_splits(n):
    train, val = random_split(range(n), [0.8, 0.2], generator=torch.Generator().manual_seed(42))
    assert dominoes._rows_of("train", n).tolist() == list(train)
    assert dominoes._rows_of("val", n).tolist() == list(val)


def test_compressed_digits_are_the_same(raw):
    expected = pack(raw).pixels
    for path in (raw / "MNIST/raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(pack(raw).pixels, expected)


class Harmful:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        lambda path: {"data": Harmful(path), "labels": [1]},
        lambda path: {"data": np.zeros((1, 3072)), "labels": [1]},  # doubles
        lambda path: {"data": np.array([{}]), "labels": [1]},
        lambda path: {"data": eval, "labels": [1]},
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_a_batch_that_asks_for_more_than_arrays_of_bytes_is_refused(raw, content, protocol):
    batch = raw / "cifar-10-batches-py/data_batch_2"
    batch.write_bytes(pickle.dumps(content(str(raw / "harmed")), protocol))
    with pytest.raises(ValueError, match=r"data_batch_2: not a readable batch of CIFAR-10 \("):
        pack(raw)
    assert not (raw / "harmed").exists()


def test_a_batch_that_todays_python_wrote_is_read(raw):
    expected = pack(raw).pixels
    for path in (raw / "cifar-10-batches-py").iterdir():
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes(), encoding="latin1"), 3))
    assert np.array_equal(pack(raw).pixels, expected)


BATCH = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": BATCH[:, :9], "labels": [1, 9]}, r"expected 'data', bytes \[n 3072\]"),
        ({"labels": [1, 9]}, r"expected 'data', bytes \[n 3072\]"),
        ([1], r"expected 'data', bytes \[n 3072\]"),
        ({"data": BATCH, "labels": [1]}, "expected 'labels', 2 integers from 0 to 9"),
        ({"data": BATCH, "labels": [1, 10]}, "expected 'labels', 2 integers from 0 to 9"),
        ({"data": BATCH, "labels": [[1], []]}, "expected 'labels', 2 integers from 0 to 9"),
    ],
)
def test_a_batch_of_another_form_is_named(raw, batch, message):
    path = raw / "cifar-10-batches-py/test_batch"
    path.write_bytes(pickle.dumps(batch, 3))
    with pytest.raises(ValueError, match=message) as caught:
        pack(raw)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte", "cifar-10-batches-py/data_batch_4"],
)
def test_missing_and_truncated_files_are_named(raw, name):
    path = raw / name
    data = path.read_bytes()
    for length in (0, 3, 9, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"no whole idx file|not a readable batch") as caught:
            pack(raw)
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(ValueError, match=r"no such file. Give a folder with MNIST/raw/ and cifar-10-b") as caught:
        pack(raw)
    assert str(path) in str(caught.value)


def test_a_truncated_archive_and_labels_of_another_set_are_named(raw):
    path = raw / "MNIST/raw/t10k-images-idx3-ubyte"
    data = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz: not a readable file, perhaps truncated"):
        pack(raw)
    path.write_bytes(data)
    shutil.copy(raw / "MNIST/raw/train-labels-idx1-ubyte", raw / "MNIST/raw/t10k-labels-idx1-ubyte")
    with pytest.raises(ValueError, match=r"images \[44, 28, 28\] and labels \[220\], expected \[n 28 28\] and \[n\]"):
        pack(raw)


def test_a_split_without_a_digit_is_named(raw):
    path = raw / "MNIST/raw/t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:8] + bytes(44))
    with pytest.raises(ValueError, match="test: 44, 0, 20, 20 images of digit 0, digit 1, automobile, truck"):
        pack(raw)


# The authors' arrays --------------------------------------------------------------------------------------------------


def test_arrays_come_back_as_they_were_saved(originals):
    packed = pack(originals / "arrays")
    for split in ("train", "val", "test"):
        rows = packed.rows[packed.rows["split"] == split]
        x, y, env = (np.load(originals / f"arrays/{name}_{split}.npy") for name in ("X", "y", "env"))
        assert np.array_equal(packed.pixels[rows["index"]].transpose(0, 3, 1, 2) / np.float32(255), x)
        assert rows["y"].tolist() == y.tolist()
        assert (2 * rows["y"] + rows["attribute"]).tolist() == env.tolist()
        assert rows["image_id"].tolist() == [f"{split}-{i:05d}" for i in range(len(x))]


def test_arrays_are_preferred_to_raw_data_and_must_be_whole(raw, originals):
    shutil.copytree(originals / "arrays", raw, dirs_exist_ok=True)
    assert np.array_equal(pack(raw).pixels, pack(originals / "arrays").pixels)
    (raw / "env_val.npy").unlink()
    with pytest.raises(ValueError, match=r"env_val.npy: no such file; .* all nine"):
        pack(raw)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_channels_may_come_last_and_fractions_are_rounded(arrays, dtype):
    expected = pack(arrays).pixels
    for split in ("train", "val", "test"):
        x = np.load(arrays / f"X_{split}.npy").transpose(0, 2, 3, 1)
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, x.shape) / 255
        np.save(arrays / f"X_{split}.npy", np.clip(x + noise, 0, 1).astype(dtype))
    assert np.array_equal(pack(arrays).pixels, expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("X", lambda x: x * 255, r"image 0 spans .* to 2\d\d; allowed are 0 to 1"),
        ("X", lambda x: x - 0.5, "image 0 spans -0.* allowed are 0 to 1"),
        ("X", lambda x: np.where(np.arange(len(x))[:, None, None, None] == 5, np.nan, x), "image 5 spans nan to nan"),
        ("X", lambda x: (x * 255).astype(np.uint8), "holds uint8, expected fractions from 0 to 1"),
        ("X", lambda x: x.transpose(0, 1, 3, 2), r"holds \[32, 3, 32, 64\], expected \[n 3 64 32\] or \[n 64 32 3\]"),
        ("X", lambda x: x[:, 0], r"holds \[32, 64, 32\], expected"),
        ("X", lambda x: x.astype(object), "X_val.npy: not a readable array, .*[Oo]bject"),
        ("y", lambda y: y[1:], r"holds float32 \[31\], expected 32 numbers, one per image"),
        ("y", lambda y: y + 0.5, "image 0 has 0.5; allowed are 0 to 1"),
        ("y", lambda y: 1 - y, "env_val.npy: image 0 is in group 0, but of class 1; groups are automobile and 0, "),
        ("env", lambda env: env + 1, "has 4; allowed are 0 to 3"),
        ("env", lambda env: env.astype(str), "expected 32 numbers"),
    ],
)
def test_other_arrays_are_refused(arrays, name, change, message):
    path = arrays / f"{name}_val.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=message) as caught:
        pack(arrays)
    assert "_val.npy" in str(caught.value)


def test_a_truncated_array_is_named(arrays):
    path = arrays / "X_test.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"X_test.npy: not a readable array, perhaps truncated"):
        pack(arrays)

"""Dominoes made of raw data and read from the authors' arrays, both against slow or foreign readers."""

import itertools
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import random_split
from torchvision.datasets import CIFAR10, MNIST

from hsfm.data.sources import dominoes
from hsfm.data.table import SPLITS, Listing
from tests import replicas

SHARES = {"train": 0.9, "val": 0.5, "test": 0.5}


@pytest.fixture(autouse=True)
def replicas_digests(monkeypatch):
    """A replica has other digests than CIFAR-10, and no names of the classes."""
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)


def pack(folder: Path) -> Listing:
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


# Raw data -------------------------------------------------------------------------------------------------------------


def foreign_reading(folder: Path) -> dict:
    """MNIST by torchvision, CIFAR-10 by plain pickle: pairs of images and labels."""
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
    for y, x in itertools.product(range(32), range(32)):
        image[y, x] = [vehicle[1024 * channel + 32 * y + x] for channel in range(3)]
    for y, x in itertools.product(range(28), range(28)):
        image[34 + y, 2 + x] = digit[y, x]
    return image


def cut_slowly(folder: Path) -> list[tuple[str, int, int, np.ndarray]]:
    """The cutting rule with torch's own random_split: split, class, digit and pixels, in the order of the groups."""
    sets, out = foreign_reading(folder), []
    for split in SPLITS:
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
        pairs = ((0, 0), slice(agree)), ((0, 1), slice(agree, n)), ((1, 0), slice(agree, n)), ((1, 1), slice(agree))
        for (y, digit), part in pairs:
            vehicles, digits = pools[2 + y][:n][part], pools[digit][:n][part]
            out += [(split, y, digit, domino(v, d)) for v, d in zip(vehicles, digits, strict=True)]
    return out


def test_raw_data_are_cut_and_paired_by_the_rule(originals):
    packed = pack(originals / "raw")
    sets = foreign_reading(originals / "raw")
    expected = cut_slowly(originals / "raw")
    assert packed.pixels.shape == (len(expected), 64, 32, 3)
    assert packed.pixels.dtype == np.uint8
    for row, (split, y, digit, pixels) in zip(packed.rows.itertuples(), expected, strict=True):
        assert (row.split, row.y, row.attribute) == (split, y, digit)
        assert np.array_equal(packed.pixels[row.index], pixels)
        name, c, d = row.image_id.replace("cifar", "").replace("mnist", "").split("-")  # says which images meet
        digits, vehicles = sets["test" if split == "test" else "train"]
        assert name == split
        assert np.array_equal(vehicles[int(c)][0], pixels[:32].transpose(2, 0, 1).ravel())
        assert np.array_equal(digits[int(d)][0], pixels[34:62, 2:30, 0])


@pytest.mark.parametrize(("n", "share"), [(980, 0.5), (3985, 0.9), (3990, 0.9), (4000, 0.9), (993, 0.5)])
def test_groups_are_as_large_as_random_splits(n, share):
    agree, differ = (len(part) for part in random_split(range(n), [share, 1 - share]))
    digits = np.zeros((2 * n, 28, 28), np.uint8), np.repeat([0, 1], n)
    vehicles = np.zeros((2 * n, 32, 32, 3), np.uint8), np.repeat([1, 9], n)
    assert np.bincount(dominoes.compose("test", digits, vehicles, share)[1]).tolist() == [agree, differ, differ, agree]


def test_files_that_are_not_whole_are_refused_with_what_belongs_there(raw, monkeypatch):
    path = raw / "MNIST/raw/train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refusal = rf"{raw}: holds no whole MNIST and CIFAR-10 \(.*\). Give a folder with MNIST/raw/ and cifar-10-b"
    with pytest.raises(ValueError, match=refusal):
        pack(raw)
    path.write_bytes(content)
    monkeypatch.undo()  # batches of another MD5, which are not unpickled
    with pytest.raises(ValueError, match="Dataset not found or corrupted"):
        pack(raw)


# The authors' arrays --------------------------------------------------------------------------------------------------


def test_arrays_come_back_as_they_were_saved(originals):
    packed = pack(originals / "arrays")
    for split in SPLITS:
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
    with pytest.raises(ValueError, match=r"env_val.npy: not a readable array \(.*No such file.* all nine"):
        pack(raw)


@pytest.fixture
def arrays(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "arrays", tmp_path / "arrays"))


def test_channels_may_come_last_and_fractions_are_rounded(arrays):
    expected = pack(arrays).pixels
    for split, dtype in zip(SPLITS, (np.float16, np.float32, np.float64), strict=True):
        x = np.load(arrays / f"X_{split}.npy").transpose(0, 2, 3, 1)
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, x.shape) / 255
        np.save(arrays / f"X_{split}.npy", np.clip(x + noise, 0, 1).astype(dtype))
    assert np.array_equal(pack(arrays).pixels, expected)


def test_arrays_of_bytes_are_the_pixels(arrays):
    expected = pack(arrays).pixels
    for split in SPLITS:
        x = np.load(arrays / f"X_{split}.npy")
        np.save(arrays / f"X_{split}.npy", np.rint(x * 255).astype(np.uint8))
    assert np.array_equal(pack(arrays).pixels, expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("X", lambda x: x * 255, "X_val.npy: float32 .* expected fractions of 0 to 1 or uint8, as"),
        ("X", lambda x: np.where(x > 0.5, np.nan, x), "X_val.npy: float32 .* expected fractions of 0 to 1 or uint8"),
        ("X", lambda x: (x * 255).astype(np.int16), "X_val.npy: int16 .* expected fractions of 0 to 1 or uint8"),
        ("X", lambda x: x.transpose(0, 1, 3, 2), r"float32 \[32, 3, 32, 64\], expected .*\[n 3 64 32\]"),
        ("X", lambda x: x.astype(object), "X_val.npy: not a readable array .*[Oo]bject"),
        ("y", lambda y: 1 - y, "env_val.npy: expected 32 groups, .* where y_ holds 0, 0, 1 and 1"),
    ],
)
def test_other_arrays_are_refused(arrays, name, change, message):
    path = arrays / f"{name}_val.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=message):
        pack(arrays)

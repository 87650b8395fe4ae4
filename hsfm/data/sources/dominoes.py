"""Dominoes: a vehicle of CIFAR-10 on top of a digit of MNIST.

Input: 64 x 32 RGB, CIFAR's image above, MNIST's (padded by 2 to 32 x 32, in three channels) below. Class: 0 automobile,
1 truck. Attribute: the digit, 0 or 1; it agrees with the class for 90 % of train, 50 % of val and test. Source: made
here of MNIST and CIFAR-10, as torchvision downloads them and checks their MD5; or the arrays that the authors saved,
which alone are exactly theirs. License: unknown, of both.
"""

import gzip
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from hsfm.data.fields import Published
from hsfm.data.table import SPLITS, Packed

CLASS_NAMES = ("automobile", "truck")
ATTRIBUTE_NAMES = ("0", "1")
AGREEMENT = {"train": 0.9, "val": 0.5, "test": 0.5}

_VEHICLES = (1, 9)  # automobile and truck among CIFAR-10's labels
_VAL_SHARE = 0.2
_SEED = 42
_BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_MNIST = {"train": "train", "test": "t10k"}
_ARRAYS = ("X", "y", "env")


@dataclass(frozen=True)
class _Part:
    pixels: UInt8[np.ndarray, "n 64 32 3"]
    group: Int[np.ndarray, " n"]  # automobile and 0, automobile and 1, truck and 0, truck and 1
    image_id: list[str]


class Settings(Published):
    """MNIST and CIFAR-10 as torchvision lays them out, or the authors' saved arrays."""

    source: Literal["dominoes"]


def pack(settings: Settings, workers: int = 1) -> Packed:
    """Make the dataset from what lies in the folder.

    The authors' arrays X_, y_ and env_{train,val,test}.npy if there is one of them, and then all nine; else MNIST/raw/
    and cifar-10-batches-py/. Rows: train, val, test; within each by group if from raw data, from arrays in their order.
    workers: as every source of one array takes them; reading needs one.
    Raises ValueError naming file and value where one is missing, not whole, or not of the form described here.
    """
    folder = Path(settings.folder)
    if any((folder / f"{name}_{split}.npy").exists() for name in _ARRAYS for split in SPLITS):
        parts = {split: _read_arrays(folder, split) for split in SPLITS}
    else:
        parts = _compose_splits(folder)
    group = np.concatenate([part.group for part in parts.values()])
    rows = pd.DataFrame(
        {
            "image_id": [name for part in parts.values() for name in part.image_id],
            "index": np.arange(len(group)),
            "y": group // 2,
            "attribute": group % 2,
            "split": [split for split, part in parts.items() for _ in part.group],
        }
    ).astype({"y": "int32", "attribute": "Int32"})
    return Packed(np.concatenate([part.pixels for part in parts.values()]), rows, CLASS_NAMES, ATTRIBUTE_NAMES)


# Cutting and pairing --------------------------------------------------------------------------------------------------


def _compose_splits(folder: Path) -> dict[str, _Part]:
    digits = {name: _read_mnist(folder, name) for name in _MNIST}
    vehicles = {name: _read_cifar(folder, name) for name in _BATCHES}
    parts = {}
    for split, official in (("train", "train"), ("val", "train"), ("test", "test")):
        rows = [_rows_of(split, len(labels)) for _, labels in (digits[official], vehicles[official])]
        parts[split] = _compose(split, digits[official], rows[0], vehicles[official], rows[1])
    return parts


def _rows_of(split: str, n: int) -> np.ndarray:
    """Rows of an official set of n images that belong to a split.

    Train and val are torch's `random_split` of the training set into 0.8 and 0.2, with a generator of its own for
    either set, seeded 42; test is all of the test set.
    """
    if split == "test":
        return np.arange(n)
    order, train = _permutation(n, _generator()), n - int(n * _VAL_SHARE)
    return order[:train] if split == "train" else order[train:]


def _compose(
    split: str,
    digits: tuple[np.ndarray, np.ndarray],
    digit_rows: np.ndarray,
    vehicles: tuple[np.ndarray, np.ndarray],
    vehicle_rows: np.ndarray,
) -> _Part:
    """Dominoes of one split; the rows say which of the two sets' images belong to it."""
    # ASSUME: the original shuffles each pool without a seed. Here one generator per split, seeded like the cut,
    # shuffles digit 0, digit 1, automobiles, trucks, in this order; an image's place in its pool says whether it is
    # kept and which image it meets.
    generator = _generator()
    pools = []
    for labels, rows, label in (
        (digits[1], digit_rows, 0),
        (digits[1], digit_rows, 1),
        (vehicles[1], vehicle_rows, _VEHICLES[0]),
        (vehicles[1], vehicle_rows, _VEHICLES[1]),
    ):
        pool = rows[labels[rows] == label]
        pools.append(pool[_permutation(len(pool), generator)])
    n = min(len(pool) for pool in pools)
    if n < 2:
        raise ValueError(
            f"{split}: {', '.join(str(len(pool)) for pool in pools)} images of digit 0, digit 1, automobile, truck; "
            "expected at least 2 of each"
        )
    zeros, ones, automobiles, trucks = (pool[:n] for pool in pools)
    # ASSUME: the odd image agrees, and products are not corrected for rounding (0.1 of 4000 gives 399): so does
    # `random_split` with shares (AGREEMENT, 1 - AGREEMENT).
    m = n - int(n * (1 - AGREEMENT[split]))
    top = np.concatenate([automobiles[:m], automobiles[m:], trucks[m:], trucks[:m]])
    below = np.concatenate([zeros[:m], ones[m:], zeros[m:], ones[:m]])
    return _Part(
        pixels=np.concatenate([_vehicle_pixels(vehicles[0][top]), _digit_pixels(digits[0][below])], axis=1),
        group=np.repeat(np.arange(4), (m, n - m, n - m, m)),
        # numbers in the official sets, so that a domino can be traced
        image_id=[f"{split}-cifar{c:05d}-mnist{d:05d}" for c, d in zip(top, below, strict=True)],
    )


def _vehicle_pixels(flat: UInt8[np.ndarray, "n 3072"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    return flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _digit_pixels(digits: UInt8[np.ndarray, "n 28 28"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    padded = np.pad(digits, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, axis=3)


def _generator() -> Any:
    import torch  # here, so that whoever imports this module for its names does not wait for torch

    return torch.Generator().manual_seed(_SEED)


def _permutation(n: int, generator: Any) -> np.ndarray:
    import torch

    return torch.randperm(n, generator=generator).numpy()


# Raw data -------------------------------------------------------------------------------------------------------------


def _read_mnist(folder: Path, name: str) -> tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]:
    stem = folder / "MNIST" / "raw" / _MNIST[name]
    images, labels = (_read_idx(stem.with_name(f"{stem.name}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{stem}-*: holds images {list(images.shape)} and labels {list(labels.shape)}, expected [n 28 28] and [n]"
        )
    return images, labels


def _read_idx(path: Path) -> np.ndarray:
    """An array of bytes in MNIST's own format: 0, 0, 8, the number of axes, their lengths, the data; or its .gz."""
    packed = path.with_name(f"{path.name}.gz")
    found = path if path.exists() else _require_raw(packed, path)
    try:
        with (gzip.open if found == packed else open)(found, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{found}: not a readable file, perhaps truncated ({error})") from error
    axes = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", axes, 4).tolist() if len(data) >= 4 + 4 * axes else []
    if not shape or len(data) != 4 + 4 * axes + np.prod(shape):
        raise ValueError(f"{found}: holds {len(data)} bytes that are no whole idx file of bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _read_cifar(folder: Path, name: str) -> tuple[UInt8[np.ndarray, "n 3072"], Int[np.ndarray, " n"]]:
    batches = [_read_batch(folder / "cifar-10-batches-py" / batch) for batch in _BATCHES[name]]
    return np.concatenate([data for data, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path) -> tuple[UInt8[np.ndarray, "n 3072"], Int[np.ndarray, " n"]]:
    with open(_require_raw(path, path), "rb") as file:
        try:
            batch = _ArrayUnpickler(file, encoding="latin1").load()  # written by Python 2
        except Exception as error:  # broken pickles meet a dozen kinds of errors
            raise ValueError(f"{path}: not a readable batch of CIFAR-10 ({error or type(error).__name__})") from error
    data, labels = (batch.get(key) if isinstance(batch, dict) else None for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise ValueError(f"{path}: expected 'data', bytes [n 3072]")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(label in range(10) for label in labels):
        raise ValueError(f"{path}: expected 'labels', {len(data)} integers from 0 to 9")
    return data, np.array(labels, np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and arrays of bytes, and refuses everything else.

    CIFAR-10 is published as pickles, and a pickle may name any function to be called while it is read. All names go
    through `find_class`; the three that an array needs get functions of ours here, so that nothing that a file names is
    ever called.
    """

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(shape, np.uint8),
            ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(shape, np.uint8),
            ("numpy", "ndarray"): None,  # only an argument of the above
            ("numpy", "dtype"): _byte_type,
        }
        if (module, name) not in allowed:
            raise ValueError(f"it asks for {module}.{name}, and only arrays of bytes are read")
        return allowed[module, name]


def _byte_type(code: str, *_: Any) -> np.dtype:
    if code != "u1":
        raise ValueError(f"it holds an array of {code!r}, expected 'u1'")
    return np.dtype(np.uint8, copy=True)  # a copy, since the pickle sets its state


def _require_raw(path: Path, shown: Path) -> Path:
    if not path.exists():
        raise ValueError(
            f"{shown}: no such file. Give a folder with MNIST/raw/ and cifar-10-batches-py/ in it, as "
            "torchvision.datasets.MNIST(folder, download=True) and CIFAR10(folder, download=True) leave them, or with "
            "the authors' arrays X_, y_ and env_{train,val,test}.npy."
        )
    return path


# The authors' arrays --------------------------------------------------------------------------------------------------


def _read_arrays(folder: Path, split: str) -> _Part:
    images, y, env = (_load(folder / f"{name}_{split}.npy") for name in _ARRAYS)
    source = folder / f"X_{split}.npy"
    if images.ndim != 4 or images.shape[1:] not in ((3, 64, 32), (64, 32, 3)):
        raise ValueError(f"{source}: holds {list(images.shape)}, expected [n 3 64 32] or [n 64 32 3]")
    y = _check_labels(y, len(images), 2, folder / f"y_{split}.npy")
    group = _check_labels(env, len(images), 4, folder / f"env_{split}.npy")
    if (y != group // 2).any():
        row = int((y != group // 2).argmax())
        raise ValueError(
            f"{folder / f'env_{split}.npy'}: image {row} is in group {group[row]}, but of class {y[row]}; groups are "
            "automobile and 0, automobile and 1 (class 0), truck and 0, truck and 1 (class 1)"
        )
    pixels = _to_bytes(images, source)
    if pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    return _Part(pixels, group, [f"{split}-{i:05d}" for i in range(len(group))])


def _load(path: Path) -> np.ndarray:
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; the authors' arrays are X_, y_ and env_{{train,val,test}}.npy, all nine"
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable array, perhaps truncated ({error})") from error


def _check_labels(labels: np.ndarray, n: int, count: int, path: Path) -> Int[np.ndarray, " n"]:
    if labels.shape != (n,) or labels.dtype.kind not in "iuf":
        raise ValueError(f"{path}: holds {labels.dtype} {list(labels.shape)}, expected {n} numbers, one per image")
    wrong = ~np.isin(labels, range(count))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{path}: image {row} has {labels[row]}; allowed are 0 to {count - 1}")
    return labels.astype(np.int64)


def _to_bytes(images: np.ndarray, path: Path) -> UInt8[np.ndarray, "n ..."]:
    """Fractions as bytes, by rounding."""
    if images.dtype.kind != "f":
        raise ValueError(f"{path}: holds {images.dtype}, expected fractions from 0 to 1 in floating point")
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 500):  # the whole array in doubles would take gigabytes
        some = images[start : start + 500]
        wrong = ~((some >= 0) & (some <= 1)).reshape(len(some), -1).all(axis=1)  # true for NaN too
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{path}: image {start + row} spans {some[row].min():g} to {some[row].max():g}; allowed are 0 to 1"
            )
        pixels[start : start + 500] = np.rint(some * 255)
    return pixels

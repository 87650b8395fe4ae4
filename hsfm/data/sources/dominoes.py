"""Dominoes: a vehicle of CIFAR-10 on top of a digit of MNIST.

Input: 64 x 32 RGB, CIFAR's image above, MNIST's (padded by 2 to 32 x 32, in three channels) below. Class: 0 automobile,
1 truck. Attribute: the digit, 0 or 1; it agrees with the class for 90 % of train, 50 % of val and test. Source: made
here of MNIST and CIFAR-10, as torchvision downloads them and checks their MD5; or the arrays that the authors saved,
which alone are exactly theirs. Their networks see fractions of 0 to 1 without normalization. License: unknown, of both.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from hsfm.data.counts import AGREEMENT
from hsfm.data.sources._published import Published
from hsfm.data.table import SPLITS, Listing

CLASS_NAMES = ("automobile", "truck")
ATTRIBUTE_NAMES = ("0", "1")

_AUTOMOBILE, _TRUCK = 1, 9  # among CIFAR-10's labels
_SEED = 42
_ADVICE = (
    "Give a folder with MNIST/raw/ and cifar-10-batches-py/ in it, as torchvision.datasets.MNIST and CIFAR10 download "
    "them, or with all nine arrays of the authors, X_, y_ and env_{train,val,test}.npy."
)

Images = tuple[UInt8[np.ndarray, "_ ..."], Int[np.ndarray, " _"]]  # of MNIST or CIFAR-10, with their labels
# Pixels; groups (automobile and 0, automobile and 1, truck and 0, truck and 1); ids.
Part = tuple[UInt8[np.ndarray, "n 64 32 3"], Int[np.ndarray, " n"], list[str]]


class Settings(Published):
    """MNIST and CIFAR-10 as torchvision lays them out, or the authors' saved arrays."""

    source: Literal["dominoes"]


def pack(settings: Settings) -> Listing:
    """Make the dataset from the files of the folder.

    The authors' arrays where the folder holds one of them; else MNIST/raw/ and cifar-10-batches-py/. Rows: train, val,
    test; within each by group if from raw data, from arrays in their order. Raises ValueError naming the folder where
    torchvision's files are missing or not whole, an array that is missing, truncated or of another form. Arrays hold
    fractions of 0 to 1, as the authors saved them, or uint8.
    """
    folder = Path(settings.folder)
    saved = any(folder.glob("[Xy]_*.npy")) or any(folder.glob("env_*.npy"))
    parts = list((_read_arrays if saved else _compose_splits)(folder))
    pixels, group, ids = (np.concatenate(values) for values in zip(*parts, strict=True))
    split = np.repeat(SPLITS, [len(part[1]) for part in parts])
    rows = {"image_id": ids, "index": np.arange(len(ids)), "y": group // 2, "attribute": group % 2, "split": split}
    return Listing(pd.DataFrame(rows), CLASS_NAMES, ATTRIBUTE_NAMES, pixels)


# Cutting and pairing --------------------------------------------------------------------------------------------------


def _compose_splits(folder: Path) -> Iterator[Part]:
    official = {train: read_official(folder, train) for train in (True, False)}
    for split in SPLITS:
        yield compose(split, *official[split != "test"], AGREEMENT[split])


def compose(split: str, digits: Images, vehicles: Images, agreement: float) -> Part:
    """Dominoes of one split, out of the official set that holds its images.

    agreement: share of the images whose digit agrees with the class.
    """
    import torch  # here, so that whoever imports this module for its settings does not wait for torch

    # ASSUME: the original shuffles each pool without a seed. Here one generator per split, seeded like the cut,
    # shuffles digit 0, digit 1, automobiles, trucks, in this order; an image's place in its pool says whether it is
    # kept and which image it meets.
    generator = torch.Generator().manual_seed(_SEED)
    pools = []
    for (_, labels), label in ((digits, 0), (digits, 1), (vehicles, _AUTOMOBILE), (vehicles, _TRUCK)):
        rows = _rows_of(split, len(labels))
        pool = rows[labels[rows] == label]
        pools.append(pool[torch.randperm(len(pool), generator=generator).numpy()])
    n = min(len(pool) for pool in pools)
    zeros, ones, automobiles, trucks = (pool[:n] for pool in pools)
    # ASSUME: the odd image agrees, and products are not corrected for rounding (0.1 of 4000 gives 399): so does
    # `random_split` with shares (agreement, 1 - agreement).
    m = n - int(n * (1 - agreement))
    top = np.concatenate([automobiles[:m], automobiles[m:], trucks[m:], trucks[:m]])
    below = np.concatenate([zeros[:m], ones[m:], zeros[m:], ones[:m]])
    padded = np.pad(digits[0][below], ((0, 0), (2, 2), (2, 2)))
    pixels = np.concatenate([vehicles[0][top], np.repeat(padded[..., None], 3, axis=3)], axis=1)
    # numbers in the official sets, so that a domino can be traced
    ids = [f"{split}-cifar{c:05d}-mnist{d:05d}" for c, d in zip(top, below, strict=True)]
    return pixels, np.repeat(np.arange(4), (m, n - m, n - m, m)), ids


def _rows_of(split: str, n: int) -> Int[np.ndarray, " _"]:
    """Rows of an official set of n images that belong to a split: all of test, a random cut of train."""
    import torch
    from torch.utils.data import random_split

    if split == "test":
        return np.arange(n)
    train, val = random_split(range(n), [0.8, 0.2], generator=torch.Generator().manual_seed(_SEED))
    return np.array((train if split == "train" else val).indices)


# Files ----------------------------------------------------------------------------------------------------------------


def read_official(folder: Path, train: bool) -> tuple[Images, Images]:
    """MNIST [n 28 28] and CIFAR-10 [n 32 32 3], of which torchvision checks the MD5 before it unpickles it."""
    from torchvision.datasets import CIFAR10, MNIST

    try:
        digits, vehicles = MNIST(folder, train), CIFAR10(folder, train)
    except Exception as error:  # broken files meet a dozen kinds of errors
        raise ValueError(f"{folder}: holds no whole MNIST and CIFAR-10 ({error}). {_ADVICE}") from error
    return (digits.data.numpy(), digits.targets.numpy()), (vehicles.data, np.array(vehicles.targets))


def _read_arrays(folder: Path) -> Iterator[Part]:
    for split in SPLITS:
        images, y, group = (_read_array(folder / f"{name}_{split}.npy") for name in ("X", "y", "env"))
        whole = images.shape[1:] in ((3, 64, 32), (64, 32, 3))
        bytes_ = images.dtype == np.uint8
        if not (whole and (bytes_ or (images.dtype.kind == "f" and ((images >= 0) & (images <= 1)).all()))):  # no NaN
            raise ValueError(
                f"{folder}/X_{split}.npy: {images.dtype} {list(images.shape)}, expected fractions of 0 to 1 or uint8, "
                "as [n 3 64 32] or [n 64 32 3]"
            )
        n = len(images)
        if not (group.shape == y.shape == (n,) and np.isin(group, range(4)).all() and (y == group // 2).all()):
            raise ValueError(
                f"{folder}/env_{split}.npy: expected {n} groups, 0 (automobile and 0), 1 (automobile and 1), 2 (truck "
                "and 0) and 3 (truck and 1), where y_ holds 0, 0, 1 and 1"
            )
        pixels = np.asarray(images) if bytes_ else np.rint(images * 255).astype(np.uint8)
        pixels = pixels.transpose(0, 2, 3, 1) if images.shape[1] == 3 else pixels
        yield pixels, group.astype(np.int64), [f"{split}-{i:05d}" for i in range(n)]


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable array ({error}). {_ADVICE}") from error

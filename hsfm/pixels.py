"""Pixels of the images that a table lists, as batches of uint8 tensors."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor


class PackedPixels:
    """Images of some table rows, read from one memory-mapped array `uint8 [N h w 3]`.

    rows: columns `path` and `index`; position i in this object is row i. folder: what `path` is relative to.
    Raises ValueError where the file is missing, truncated, of another type, or too short for an index.
    """

    def __init__(self, rows: pd.DataFrame, folder: str | Path):
        names = rows["path"].unique()
        if len(names) != 1:
            raise ValueError(
                f"{folder}: the rows name {len(names)} packed arrays, expected one: {', '.join(names[:3])}"
            )
        path = Path(folder) / names[0]
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable packed array, perhaps truncated ({error})") from error
        if self._array.dtype != np.uint8 or self._array.ndim != 4 or self._array.shape[-1] != 3:
            raise ValueError(f"{path}: holds {self._array.dtype} {list(self._array.shape)}, expected uint8 [n h w 3]")
        self._index = rows["index"].to_numpy(np.int64)
        if self._index.max() >= len(self._array) or self._index.min() < 0:
            raise ValueError(f"{path}: holds {len(self._array)} images, but the table asks for {self._index.max()}")

    def __len__(self) -> int:
        return len(self._index)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self._array.shape[1:3]

    def batch(self, positions: Tensor) -> UInt8[Tensor, "b 3 h w"]:
        """The images at `positions` [b], in that order."""
        return torch.from_numpy(self._array[self._index[positions.numpy()]]).permute(0, 3, 1, 2)

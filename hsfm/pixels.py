"""Pixels of the images that a table lists, as uint8 tensors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from hsfm.decode import read_rgb


def open_pixels(rows: pd.DataFrame, folder: str | Path) -> "PackedPixels | ImageFiles":
    """The images of some table rows (not none), packed or in files. folder: what `path` is relative to."""
    if rows["index"].isna().all():
        return ImageFiles(rows, folder)
    return PackedPixels(rows, folder)


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

    def batch(self, positions: Tensor, device: torch.device | None = None) -> UInt8[Tensor, "b 3 h w"]:
        """The images at `positions` [b], in that order."""
        images = torch.from_numpy(self._array[self._index[positions.numpy()]]).permute(0, 3, 1, 2)
        return images if device is None else images.to(device)


class ImageFiles:
    """Images of some table rows, decoded anew whenever they are asked for.

    rows: column `path`; position i in this object is row i. folder: what `path` is relative to. workers: threads that
    decode side by side; by default as many as torch computes with.
    """

    def __init__(self, rows: pd.DataFrame, folder: str | Path, *, workers: int | None = None):
        self._paths = [Path(folder, path) for path in rows["path"]]
        self._pool = ThreadPoolExecutor(workers or torch.get_num_threads())

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, positions: Tensor, device: torch.device | None = None) -> list[UInt8[Tensor, "3 _h _w"]]:
        """The images at `positions` [b], in that order and each of its own size. Raises ValueError as `read_rgb`."""
        images = self._pool.map(read_rgb, [self._paths[i] for i in positions.tolist()])
        tensors = (torch.from_numpy(image).permute(2, 0, 1) for image in images)
        return [image if device is None else image.to(device) for image in tensors]


def inspect(rows: pd.DataFrame, folder: str | Path, *, workers: int) -> pd.DataFrame:
    """Decode every image file once: columns height and width, null where `problem` says why it cannot be read.

    rows: column `path`, relative to `folder`; the result has the same index. workers: threads.
    """

    def look(path: str) -> tuple[int | None, int | None, str | None]:
        try:
            height, width, _ = read_rgb(Path(folder, path)).shape
        except ValueError as error:
            return None, None, str(error).removeprefix(f"{Path(folder, path)}: ")
        return height, width, None

    with ThreadPoolExecutor(workers) as pool:
        found = list(tqdm(pool.map(look, rows["path"]), "reading", len(rows), unit="image", disable=None))
    frame = pd.DataFrame(found, columns=["height", "width", "problem"], index=rows.index)
    return frame.astype({"height": "Int32", "width": "Int32", "problem": "string"})


def common_size(rows: pd.DataFrame) -> Sequence[int] | None:
    """Height and width of the images of some table rows, or None where they differ."""
    sizes = rows[["height", "width"]].drop_duplicates()
    return [int(n) for n in sizes.iloc[0]] if len(sizes) == 1 else None

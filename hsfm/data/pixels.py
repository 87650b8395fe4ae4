"""Images of a table as batches of uint8 tensors, from a packed array or from files."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hsfm.core.device import Compute, prefetch, upload
from hsfm.data.decode import read_rgb

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Images of any sizes, one behind the other; choosing among them copies no pixel.

    Image i has the pixels `start[i]` to `start[i] + height * width`, row by row.
    """

    pixels: UInt8[Tensor, "p 3"]
    start: Int[Tensor, " n"]  # on the device of pixels, as is `size`
    size: Int[Tensor, "n 2"]  # height and width
    size_on_cpu: Int[Tensor, "n 2"]  # the same, so that asking for a shape never waits for a device
    shape: tuple[int, int] | None  # height and width of all, where they are equal and `start` counts whole images

    @staticmethod
    def of(pixels: UInt8[Tensor, "p 3"], size: Int[Tensor, "n 2"], start: Int[Tensor, " n"] | None = None) -> "Images":
        """Images on the CPU; without `start` each begins where the one before it ends."""
        if start is None:
            start = size.prod(1).cumsum(0) - size.prod(1)
        same = len(size) > 0 and (size == size[0]).all() and (start % max(int(size[0].prod()), 1) == 0).all()
        return Images(pixels, start, size, size, tuple(size[0].tolist()) if same else None)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, part: slice) -> "Images":
        return Images(self.pixels, self.start[part], self.size[part], self.size_on_cpu[part], self.shape)

    def take(self, rows: Int[Tensor, " k"]) -> "Images":
        """These images, in this order. rows: on the CPU."""
        there = rows.to(self.pixels.device)
        return Images(self.pixels, self.start[there], self.size[there], self.size_on_cpu[rows], self.shape)

    def each(self) -> Iterator[UInt8[Tensor, "3 _h _w"]]:
        """One after the other, as views; on the CPU."""
        for start, (height, width) in zip(self.start.tolist(), self.size.tolist(), strict=True):
            yield self.pixels[start : start + height * width].view(height, width, 3).permute(2, 0, 1)

    def stacked(self) -> UInt8[Tensor, "n 3 h w"]:
        """All in one tensor, channels last in memory; images of several sizes lie in the upper left corner."""
        if self.shape is not None:
            height, width = self.shape
            whole = len(self.pixels) // (height * width) * height * width
            grid = self.pixels[:whole].view(-1, height * width * 3)
            return grid.index_select(0, self.start // (height * width)).view(-1, height, width, 3).permute(0, 3, 1, 2)
        height, width = self.size_on_cpu.amax(0).tolist()
        y, x = (torch.arange(length, device=self.pixels.device) for length in (height, width))
        row = self.start[:, None] + y.clamp(max=self.size[:, :1] - 1) * self.size[:, 1:]  # [n h]
        place = row[:, :, None] + x.clamp(max=self.size[:, None, 1:] - 1)  # [n h w]
        return self.pixels.index_select(0, place.flatten()).view(*place.shape, 3).permute(0, 3, 1, 2)

    @property
    def n_bytes(self) -> int:
        """Of these images alone."""
        return 3 * int(self.size_on_cpu.prod(1).sum())

    def kept_on(self, device: torch.device) -> "Images":
        """A copy of these images alone on another device, moved in parts so that this one does not hold it twice."""
        parts = [self[first : first + 1024].pinned().pixels.to(device) for first in range(0, len(self), 1024)]
        return Images.of(torch.cat(parts), self.size).to(device)

    # pinned and to are what hsfm.core.device.upload asks of an item

    def pinned(self) -> "Images":
        """A copy that holds these images alone, in memory that a GPU can read by itself."""
        pixels = torch.empty(self.n_bytes // 3, 3, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        ranges = zip(self.start.tolist(), self.size.prod(1).tolist(), strict=True)
        torch.cat([self.pixels[first : first + length] for first, length in ranges], out=pixels)
        return Images.of(pixels, self.size)

    def to(self, device: torch.device) -> "Images":
        """The same on another device, copied without waiting."""
        pixels, start, size = (t.to(device, non_blocking=True) for t in (self.pixels, self.start, self.size))
        return Images(pixels, start, size, self.size_on_cpu, self.shape)


def pack(images: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> Images:
    """Images that lie apart as one."""
    pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
    return Images.of(pixels, torch.tensor([image.shape[:2] for image in images]))


def read_packed(rows: pd.DataFrame, folder: str | Path) -> Images:
    """The images of some table rows in one memory-mapped array `uint8 [N h w 3]`.

    rows: columns `path`, the same in all, and `index`; image i is row i. folder: what `path` is relative to.
    Raises ValueError where the file is truncated.
    """
    array = map_array(Path(folder) / rows["path"].iloc[0])
    _, height, width, _ = array.shape
    index = torch.tensor(rows["index"].to_numpy(np.int64))
    size = torch.tensor([height, width]).expand(len(index), 2)
    return Images.of(torch.from_numpy(array.reshape(-1, 3)), size, index * height * width)


def map_array(path: Path) -> np.ndarray:
    """A memory-mapped array; ValueError naming the file where it is not whole."""
    try:
        # copy on write: nothing here writes, but torch warns of arrays that cannot be written to
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable packed array, perhaps truncated ({error})") from error


class ImageFiles:
    """Images of some table rows, decoded anew whenever they are asked for, by as many threads as torch computes with.

    rows: column `path`, relative to `folder`, and `height` and `width` where they are known; image i is row i.
    """

    def __init__(self, rows: pd.DataFrame, folder: str | Path):
        self._paths = [Path(folder, path) for path in rows["path"]]
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        known = {"height", "width"} <= set(rows.columns) and rows[["height", "width"]].notna().all(axis=None)
        self.size_on_cpu = torch.tensor(rows[["height", "width"]].to_numpy(np.int64).copy()) if known else None

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, rows: Int[Tensor, " k"]) -> Images:
        """These images, in this order. Raises ValueError as `read_rgb`."""
        return pack(list(self._pool.map(read_rgb, [self._paths[i] for i in rows.tolist()])))


def image_batches(
    images: Images | ImageFiles, order: Int[Tensor, " m"], batch_size: int | list[int], device: torch.device
) -> Iterator[Images]:
    """Batches on `device`, in this order: the one way in which images reach a network.

    batch_size: of all batches but the last, or of each, none of them 0. Images that lie on the device are chosen there.
    Others are read ahead of use, decoded if need be, and copied.
    """
    parts = order.split(batch_size) if len(order) else ()
    if isinstance(images, ImageFiles):
        return upload(prefetch(map(images.read, parts)), device)
    chosen, ends = images.take(order), accumulate(map(len, parts))
    batches = (chosen[end - len(part) : end] for part, end in zip(parts, ends, strict=True))
    return batches if images.pixels.device.type == device.type else upload(batches, device)


def keep_on_device(parts: Sequence[Images | ImageFiles], compute: Compute) -> list[Images | ImageFiles]:
    """The same, in the device's memory where all are packed and fit there together."""
    n_bytes = sum(part.n_bytes for part in parts if isinstance(part, Images))
    if not all(isinstance(part, Images) for part in parts) or not compute.keeps(n_bytes):
        return list(parts)
    log.info("%.0f MB of images are kept on the device", n_bytes / 1e6)
    return [part.kept_on(compute.device) for part in parts]

"""The store of decoded images: one memory-mapped array that all stages and runs share.

Two files: the pixels, a numpy array `uint8 [p 3]` in which the images lie one behind the other; and their index, a
Parquet table with a row per image in the order of the image table. The index's metadata name the rule for the decode
size and the decoder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from hsfm.core.files import fingerprint, read_parquet, write_atomically, write_parquet
from hsfm.core.progress import track
from hsfm.data.decode import decoder, read_or_problem
from hsfm.data.decode_size import stored_size
from hsfm.data.pixels import Images, map_array
from hsfm.data.resize import resize

AT_ONCE = 256  # decoded images that wait to be written

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("start", pa.int64()),  # first pixel
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


@dataclass(frozen=True)
class CacheFiles:
    """Where a store lies, and the size of its images."""

    pixels: Path
    index: Path
    rule: Mapping[str, Any]  # of decode_size

    @staticmethod
    def of(files: Sequence[str | Path], rule: Mapping[str, Any]) -> "CacheFiles | None":
        """That of these two files, pixels and index; None where a dataset has none."""
        return CacheFiles(*map(Path, files), rule) if len(files) else None


def decode_images(rows: pd.DataFrame, folder: str | Path, files: CacheFiles, *, workers: int) -> pd.DataFrame:
    """Decode the image files of table rows into a store, without those that cannot be read.

    rows: columns image_id and path (relative to `folder`). workers: threads. Per row, the result has the file's height
    and width, or the `problem` why it cannot be read.
    """

    def decode(path: str) -> tuple[np.ndarray | None, tuple]:
        image, problem = read_or_problem(Path(folder, path))
        if image is None:
            return None, (None, None, None, None, problem)
        small = _resized(image, files.rule)
        return small, (*image.shape[:2], *small.shape[:2], None)

    found, n_pixels = [], 0
    with write_atomically(files.pixels) as temporary, open(temporary, "wb") as target:
        _write_header(target, n_pixels)
        with _one_thread(), ThreadPoolExecutor(workers) as pool:
            parts = (rows["path"][first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE))
            decoded = (one for part in parts for one in pool.map(decode, part))
            for image, entry in track(decoded, "decoding", "image", len(rows)):
                found.append(entry)
                if image is not None:
                    target.write(image)
                    n_pixels += image.shape[0] * image.shape[1]
        target.seek(0)
        _write_header(target, n_pixels)
    columns = ["original_height", "original_width", "height", "width", "problem"]
    entries = pd.DataFrame(found, columns=columns, index=rows.index).astype(
        dict.fromkeys(columns[:4], "Int32") | {"problem": "string"}
    )
    _write_index(files, rows, entries)
    return entries[["original_height", "original_width", "problem"]].set_axis(["height", "width", "problem"], axis=1)


def _write_header(target: IO[bytes], n_pixels: int) -> None:
    """Numpy leaves room for the longest number, so that the header's length is always the same."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_pixels, 3)}
    np.lib.format.write_array_header_1_0(target, header)


def _resized(image: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    size = stored_size(*image.shape[:2], rule)
    if image.shape[:2] == size:
        return image
    small = resize(torch.from_numpy(image).permute(2, 0, 1), *size)
    return small.permute(1, 2, 0).contiguous().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Images are decoded side by side; more threads for each would only be in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_index(files: CacheFiles, rows: pd.DataFrame, entries: pd.DataFrame) -> None:
    good = entries["problem"].isna()
    size = entries.loc[good, ["height", "width"]]
    area = size.prod(axis=1).astype("int64")
    index = size.assign(image_id=rows["image_id"], start=area.cumsum() - area)
    table = pa.Table.from_pandas(index, SCHEMA, preserve_index=False)
    write_parquet(files.index, table, {"decode_size": dict(files.rule), "decoder": decoder()})


def open_cache(files: CacheFiles) -> Callable[[pd.DataFrame], Images]:
    """A function from rows of the image table, whose index are their numbers in it, to their images.

    Raises ValueError, with the command that has the store made anew, where it is missing, damaged, or of another decode
    size or decoder; the function where it is of other images.
    """
    anew = f"to have it made anew: rm {files.pixels} {files.index}, and run again"
    try:
        table, metadata = read_parquet(files.index, SCHEMA)
        array = map_array(files.pixels)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{error}; {anew}") from error
    image_id, start, height, width = (column.to_pandas() for column in table.columns)
    size = torch.tensor(np.stack([height, width], 1).astype(np.int64))
    if fingerprint([metadata.get("decode_size"), metadata.get("decoder")]) != fingerprint([files.rule, decoder()]):
        raise ValueError(f"{files.index}: is of another decode size or another decoder; {anew}")
    if array.shape != (int(size.prod(1).sum()), 3):
        raise ValueError(f"{files.pixels}: holds {list(array.shape)} numbers, others than its index says; {anew}")
    images = Images.of(torch.from_numpy(array), size, torch.tensor(start.to_numpy()))

    def take(rows: pd.DataFrame) -> Images:
        if (image_id.reindex(rows.index) != rows["image_id"]).any():
            raise ValueError(f"{files.index}: is of other images than the image table; {anew}")
        return images.take(torch.tensor(rows.index.to_numpy(np.int64)))

    return take

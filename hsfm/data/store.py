"""The store of decoded images: one memory-mapped array that all stages and runs share.

Two files: the pixels, a numpy array `uint8 [p 3]` in which the images lie one behind the other; and their index, a
Parquet table with a row per image in the order of the image table, whose metadata name the rule for the decode size.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from hsfm.core.files import read_parquet, write_atomically, write_parquet
from hsfm.core.progress import track
from hsfm.data.decode import read_rgb
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


def inspect(rows: pd.DataFrame, folder: str | Path, *, workers: int) -> pd.DataFrame:
    """Decode every image file once: columns height and width, null where `problem` says why it cannot be read.

    rows: column `path`, relative to `folder`; the result has the same index. workers: threads.
    """
    return _as_frame([entry for _, entry in _decode_each(rows["path"], folder, {}, workers)], rows.index)


def decode_images(
    rows: pd.DataFrame, folder: str | Path, pixels: str | Path, index: str | Path, rule: Mapping[str, Any], workers: int
) -> pd.DataFrame:
    """Decode image files into a store, without those that cannot be read; returns the same as `inspect`.

    rows: columns image_id and path (relative to `folder`). pixels, index: the store's files. rule: of decode_size.
    """
    entries, stored, start = [], [], 0
    with write_atomically(pixels) as temporary, open(temporary, "wb") as target:
        target.seek(128)  # the header's length, whatever the number of pixels
        decoded = _decode_each(rows["path"], folder, rule, workers)
        for image_id, (image, entry) in zip(rows["image_id"], decoded, strict=True):
            entries.append(entry)
            if image is not None:
                target.write(image)
                stored.append((image_id, start, *image.shape[:2]))
                start += image.shape[0] * image.shape[1]
        target.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (start, 3)}
        np.lib.format.write_array_header_1_0(target, header)
    table = pa.Table.from_pandas(pd.DataFrame(stored, columns=SCHEMA.names), SCHEMA, preserve_index=False)
    write_parquet(index, table, {"decode_size": dict(rule)})
    return _as_frame(entries, rows.index)


def _decode_each(
    paths: pd.Series, folder: str | Path, rule: Mapping[str, Any], workers: int
) -> Iterator[tuple[np.ndarray | None, dict[str, Any]]]:
    """Each image at the size of the rule, with the file's height and width; or None, and the problem."""

    def decode(name: str) -> tuple[np.ndarray | None, dict[str, Any]]:
        path = Path(folder, name)
        try:
            image = read_rgb(path)
        except ValueError as error:
            return None, {"problem": str(error).removeprefix(f"{path}: ")}
        small = resize(torch.from_numpy(image).permute(2, 0, 1), *stored_size(*image.shape[:2], rule))
        return small.permute(1, 2, 0).contiguous().numpy(), dict(zip(("height", "width"), image.shape, strict=False))

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # images are decoded side by side
    try:
        with ThreadPoolExecutor(workers) as pool:
            parts = (paths[first : first + AT_ONCE] for first in range(0, len(paths), AT_ONCE))
            yield from track((one for part in parts for one in pool.map(decode, part)), "decoding", "image", len(paths))
    finally:
        torch.set_num_threads(before)


def _as_frame(entries: list[dict[str, Any]], index: pd.Index) -> pd.DataFrame:
    types = {"height": "Int32", "width": "Int32", "problem": "string"}
    return pd.DataFrame(entries, columns=list(types), index=index).astype(types)


def open_cache(pixels: str | Path, index: str | Path) -> Callable[[pd.DataFrame], Images]:
    """A function from rows of the image table, whose index are their numbers in it, to their images in a store.

    Raises ValueError, with the command that has the store made anew, where it is missing or damaged; the function where
    it is of other images.
    """
    anew = f"to have it made anew: rm {pixels} {index}, and run again"
    try:
        table, _ = read_parquet(index, SCHEMA)
        array = map_array(Path(pixels))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{error}; {anew}") from error
    image_id, start, height, width = (column.to_pandas() for column in table.columns)
    size = torch.tensor(np.stack([height, width], 1).astype(np.int64))
    images = Images.of(torch.from_numpy(array), size, torch.tensor(start.to_numpy()))

    def take(rows: pd.DataFrame) -> Images:
        if (image_id.reindex(rows.index) != rows["image_id"]).any():
            raise ValueError(f"{index}: is of other images than the image table; {anew}")
        return images.take(torch.tensor(rows.index.to_numpy(np.int64)))

    return take

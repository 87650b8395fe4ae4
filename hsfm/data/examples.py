"""Example images of each group of the training split. Knows no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from hsfm.data.decode import read_rgb
from hsfm.data.table import group_name, read_images

SHOWN = 8  # images of a group


def read_examples(
    path: str | Path, shrink: Callable[[np.ndarray], np.ndarray]
) -> dict[str, list[UInt8[np.ndarray, "_h _w 3"]]]:
    """The first images of each class and attribute, by group name with its share of the split.

    path: of an image table. shrink: makes an image file's pixels smaller; those of packed arrays stay.
    """
    table = read_images(path)
    rows, folder = table.split("train"), Path(table.folder or Path(path).parent)

    def read(file: str, index: Any) -> UInt8[np.ndarray, "h w 3"]:
        if pd.isna(index):
            return shrink(read_rgb(folder / file))
        return np.load(folder / file, mmap_mode="r", allow_pickle=False)[index]

    pictures = {}
    for (y, attribute), part in rows.fillna({"attribute": -1}).groupby(["y", "attribute"]):
        name = f"{group_name(table, y, attribute)}, {100 * len(part) / len(rows):.1f} %"
        pictures[name] = list(map(read, part["path"][:SHOWN], part["index"][:SHOWN]))
    return pictures

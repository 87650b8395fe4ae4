"""Return a function from table rows to images: of a packed array, the store of decoded files, or the files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hsfm.data.pixels import ImageFiles, Images, read_packed
from hsfm.data.store import open_cache
from hsfm.data.table import group_name, read_images

EXAMPLES = 8  # of a group
EXAMPLES_SEED = 0  # of which ones are shown


def open_source(path: str | Path, cache: Sequence[str | Path] = ()) -> Callable[[pd.DataFrame], Images | ImageFiles]:
    """A function from rows of the image table `path` to their images; the rows' index are their numbers in the table.

    cache: pixels and index of the store of its image files; without one they are decoded whenever they are asked for.
    """
    folder = read_images(path).folder
    if not folder:
        return lambda rows: read_packed(rows, Path(path).parent)
    return open_cache(*cache) if cache else lambda rows: ImageFiles(rows, folder)


def open_pictures(path: str | Path, cache: Sequence[str | Path] = ()) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """A function from image ids of the table `path` to their pixels: uint8 [h w 3] each, sizes may differ.

    cache: as in `open_source`.
    """
    source, rows = open_source(path, cache), read_images(path).rows
    place = {image_id: number for number, image_id in enumerate(rows["image_id"])}

    def pictures(image_id: Sequence[str]) -> list[np.ndarray]:
        images = source(rows.loc[[place[one] for one in image_id]])
        if isinstance(images, ImageFiles):
            images = images.read(torch.arange(len(images)))
        return [image.permute(1, 2, 0).numpy().copy() for image in images.each()]

    return pictures


def read_examples(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Training images of each class and attribute of the table `path`, by group name with its share.

    They are drawn at random, the same for one table: the first rows are often of one folder, patient or scene.
    """
    table, pictures, rng = read_images(path), open_pictures(path), np.random.default_rng(EXAMPLES_SEED)
    rows, examples = table.split("train"), {}
    for (y, attribute), part in rows.fillna({"attribute": -1}).groupby(["y", "attribute"]):
        name = f"{group_name(table, y, attribute)}, {100 * len(part) / len(rows):.1f} %"
        drawn = rng.choice(len(part), min(EXAMPLES, len(part)), replace=False)
        examples[name] = pictures(part["image_id"].iloc[drawn].to_list())
    return examples

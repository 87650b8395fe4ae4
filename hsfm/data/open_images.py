"""Return a function from table rows to images: of a packed array, the store of decoded files, or the files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hsfm.data.pixels import ImageFiles, Images, read_packed
from hsfm.data.store import CacheFiles, open_cache
from hsfm.data.table import read_images, read_names


def open_source(path: str | Path, cache: CacheFiles | None = None) -> Callable[[pd.DataFrame], Images | ImageFiles]:
    """A function from rows of the image table `path` to their images; the rows' index are their numbers in the table.

    cache: of its image files; None decodes them whenever they are asked for.
    """
    folder = read_names(path).folder
    if not folder:
        return lambda rows: read_packed(rows, Path(path).parent)
    return open_cache(cache) if cache else lambda rows: ImageFiles(rows, folder)


def open_splits(
    path: str | Path, cache: CacheFiles | None, image_id: Mapping[str, Sequence[str]]
) -> Callable[[str], Images | ImageFiles]:
    """A function from a split to its images in the table `path`. cache: as in `open_source`.

    image_id: what the images of each split have to be, row by row. Raises ValueError where they are others.
    """
    table, source = read_images(path), open_source(path, cache)

    def images(split: str) -> Images | ImageFiles:
        rows = table.split(split)
        if tuple(rows["image_id"]) != tuple(image_id[split]):
            raise ValueError(f"{path}: lists other {split} images than the embeddings")
        return source(rows)

    return images


def open_pictures(path: str | Path, cache: CacheFiles | None = None) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """A function from image ids of the table `path` to their pixels: uint8 [h w 3] each, sizes may differ.

    cache: as in `open_source`. Raises ValueError for an id that the table lacks.
    """
    source, rows = open_source(path, cache), read_images(path).rows
    place = {image_id: number for number, image_id in enumerate(rows["image_id"])}

    def pictures(image_id: Sequence[str]) -> list[np.ndarray]:
        missing = [one for one in image_id if one not in place]
        if missing:
            raise ValueError(f"{path}: lists no image {missing[0]!r}")
        images = source(rows.loc[[place[one] for one in image_id]])
        if isinstance(images, ImageFiles):
            images = images.read(torch.arange(len(images)))
        return [image.permute(1, 2, 0).numpy().copy() for image in images.each()]

    return pictures

"""Return a function from table rows to images: of a packed array, the store of decoded files, or the files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hsfm.data.pixels import ImageFiles, Images, read_packed
from hsfm.data.store import CacheFiles, open_cache
from hsfm.data.table import check_pixels, read_images, read_names, read_pieces


def open_source(
    path: str | Path, cache: CacheFiles | None = None, *, workers: int | None = None
) -> Callable[[pd.DataFrame], Images | ImageFiles]:
    """A function from rows of the image table `path` to their images; the rows' index are their numbers in the table.

    cache: of its image files; None decodes them whenever they are asked for. workers: threads that decode or check, by
    default as many as torch computes with. Raises ValueError for a packed array that is not the table's.
    """
    table = read_names(path)
    if not table.folder:
        folder = Path(path).parent
        check_pixels(table, folder)
        return lambda rows: read_packed(rows, folder)
    if cache is None:
        return lambda rows: ImageFiles(rows, table.folder, workers=workers)
    return open_cache(lambda: (piece.rows for piece in read_pieces(path)), table.folder, cache, workers=workers).take


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

"""Where the pixels of an image table come from: a packed array, the cache of decoded files, or the files themselves."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hsfm.images import check_pixels, read_names, read_pieces
from hsfm.pixel_cache import CacheFiles, open_cache
from hsfm.pixels import ImageFiles, Images, read_packed


def open_source(
    path: str | Path, cache: CacheFiles | None = None, *, workers: int | None = None
) -> Callable[[pd.DataFrame], Images | ImageFiles]:
    """What gives the images of some rows of the image table `path`; the rows' index are their numbers in the table.

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

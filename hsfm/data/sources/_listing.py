"""Listings out of tables with one row per image, for the sources whose images are files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hsfm.data.labels import SPLIT_CODES, look_up, require_filled
from hsfm.data.table import Listing

# metadata.csv of Waterbirds, which DFR's authors took over for CelebA
GROUP_DRO = {"path": "img_filename", "y": "y", "attribute": "place", "split": "split"}


def decode(text: pd.DataFrame, source: Path, columns: Mapping[str, str], codes: Mapping[str, int]) -> pd.DataFrame:
    """Numbers for the texts in y and attribute, by `codes`, and names of the splits for 0, 1 and 2.

    columns: what the table `source` calls those of `text`. Raises ValueError naming table, column, row and value.
    """
    require_filled(text["path"], f"{source}: column {columns['path']!r}")
    meaning = {"y": codes, "attribute": codes, "split": SPLIT_CODES}
    for key in [key for key in meaning if key in columns]:
        text[key] = look_up(text[key], meaning[key], f"{source}: column {columns[key]!r}")
    return text


def list_rows(rows: pd.DataFrame, class_names: Sequence[str], attribute_names: Sequence[str]) -> Listing:
    """The listing of rows in their order, with the columns and types that it must have."""
    columns = ["image_id", "path", "y", "attribute", "split"]
    rows = rows[columns].astype({"y": "int32", "attribute": "Int32"})
    return Listing(rows, tuple(class_names), tuple(attribute_names))

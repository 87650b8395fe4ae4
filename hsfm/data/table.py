"""The image table: one row per image, its labels, its split and where its pixels are."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import pyarrow as pa

from hsfm.core.files import read_metadata, read_parquet, write_atomically, write_parquet
from hsfm.data.labels import require_unique

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

# `path` is an image file, relative to the table's `folder`; or, where `index` is not null, a packed array beside the
# table, of which the image is that row.
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("index", pa.int64()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("group", pa.int32()),
        ("split", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
_NAMES = ("dataset", "class_names", "attribute_names", "folder")  # the file's metadata


@dataclass(frozen=True)
class Listing:
    """The contents of a dataset's folder as listed there; no image has been opened."""

    rows: pd.DataFrame  # image_id, path (relative to the folder), y, attribute (null where unknown), split
    class_names: tuple[str, ...]  # y counts into these
    attribute_names: tuple[str, ...]  # attribute counts into these


@dataclass(frozen=True)
class Packed:
    """A dataset as one array."""

    pixels: np.ndarray  # uint8 [n h w 3]
    rows: pd.DataFrame  # image_id, index (row of pixels), y, attribute (null where unknown), split
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]


@dataclass(frozen=True)
class ImageTable:
    rows: pd.DataFrame  # the columns of SCHEMA; attribute and group null where unknown; height and width in pixels
    dataset: str
    class_names: tuple[str, ...]  # y counts into these
    attribute_names: tuple[str, ...]  # attribute counts into these
    folder: str = ""  # where image files lie; empty where the images are packed beside the table

    def split(self, name: str) -> pd.DataFrame:
        """The rows of one split, in table order; the index keeps their numbers in the table."""
        return self.rows[self.rows["split"] == name]


def group_name(names: Any, y: SupportsIndex, attribute: Any, between: str = ", ") -> str:
    """Class and attribute in words. names: with class_names and attribute_names; attribute: -1 or null if unknown."""
    unknown = pd.isna(attribute) or attribute < 0
    return f"{names.class_names[y]}{between}{'unknown' if unknown else names.attribute_names[attribute]}"


def complete(rows: pd.DataFrame, attribute_names: Sequence[str]) -> pd.DataFrame:
    """Rows with every column of SCHEMA: group is `y * n_attributes + attribute`; null in what is not there."""
    group = rows["y"].astype("Int32") * len(attribute_names) + rows["attribute"].astype("Int32")
    absent = {name: pd.array([pd.NA] * len(rows), "Int64") for name in SCHEMA.names if name not in rows}
    return rows.assign(**absent | {"group": group.astype("Int32")})[SCHEMA.names]


def check_images(table: ImageTable, source: str | Path) -> None:
    """Raise ValueError, naming `source` and the image, for a table with a label or split that is not allowed.

    An attribute may be unknown. Ids are unique, and every split has images of every class.
    """
    rows = table.rows
    allowed = {"y": range(len(table.class_names)), "attribute": range(len(table.attribute_names)), "split": SPLITS}
    for column, values in allowed.items():
        wrong = ~rows[column].isin(values) & (rows[column].notna() | (column != "attribute"))
        if wrong.any():
            row = rows[wrong].iloc[0]
            raise ValueError(
                f"{source}: image {row['image_id']!r} has {column} {row[column]}; "
                f"allowed are {', '.join(map(str, values))}"
            )
    require_unique(rows["image_id"], f"{source}: image_id")
    there = set(rows[["split", "y"]].drop_duplicates().itertuples(index=False, name=None))
    for split in SPLITS:
        for y, name in enumerate(table.class_names):
            if (split, y) not in there:
                raise ValueError(f"{source}: class {y} ({name}) has no image in the {split} split")


def write_images(path: str | Path, table: ImageTable) -> None:
    """Check and write an image table."""
    check_images(table, path)
    rows = pa.Table.from_pandas(table.rows[SCHEMA.names], SCHEMA, preserve_index=False)
    write_parquet(path, rows, {name: getattr(table, name) for name in _NAMES})


def read_images(path: str | Path) -> ImageTable:
    """Read an image table."""
    table, metadata = read_parquet(path, SCHEMA)
    return _with_names(_frame(table), metadata)


def read_names(path: str | Path) -> ImageTable:
    """An image table without its rows."""
    return _with_names(_frame(SCHEMA.empty_table()), read_metadata(path, SCHEMA))


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}.get)


def _with_names(rows: pd.DataFrame, metadata: Mapping[str, Any]) -> ImageTable:
    names = {name: metadata[name] for name in _NAMES}
    return ImageTable(rows, **{name: tuple(one) if isinstance(one, list) else one for name, one in names.items()})


def write_readable(
    path: str | Path, table: ImageTable, found: pd.DataFrame, report: str | Path, *, on_bad_image: str
) -> pd.DataFrame:
    """Write the table with its images' sizes and without those that cannot be read, which are listed in `report`.

    found: per row height and width, or the `problem` why it cannot be read. Returns the listing. Raises ValueError that
    names the first ten where `on_bad_image` is `stop`; with `skip` it is a warning.
    """
    rows = table.rows.assign(height=found["height"], width=found["width"])
    bad = found["problem"].notna()
    listing = rows.loc[bad, ["image_id", "path", "split"]].assign(problem=found["problem"][bad])
    if bad.any():
        few = "; ".join(f"{row.path}: {row.problem}" for row in listing.head(10).itertuples())
        more = "; ..." if len(listing) > 10 else ""
        message = f"{table.folder}: cannot read {len(listing)} of {len(bad)} images: {few}{more}"
        if on_bad_image == "stop":
            raise ValueError(f"{message}; on_bad_image: skip leaves such images out")
        log.warning("%s; they are left out and listed in %s", message, report)
    write_images(path, replace(table, rows=rows[~bad].reset_index(drop=True)))
    with write_atomically(report) as temporary:
        listing.to_csv(temporary, index=False)
    return listing

"""The image table: one row per image, its labels, its split and where its pixels are."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Int

from hsfm.core.files import read_parquet, write_atomically, write_parquet
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


@dataclass(frozen=True)
class Listing:
    """The contents of a dataset's folder: image files as they are listed there, none of them opened, or one array."""

    rows: pd.DataFrame  # image_id, path (relative to the folder) or index, y, attribute (null where unknown), split
    class_names: tuple[str, ...]  # y counts into these
    attribute_names: tuple[str, ...]  # attribute counts into these
    pixels: np.ndarray | None = None  # uint8 [n h w 3]: image i is row `index[i]`
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # as in ImageTable


@dataclass(frozen=True)
class ImageTable:
    rows: pd.DataFrame  # the columns of SCHEMA; attribute and group null where unknown; height and width in pixels
    dataset: str
    class_names: tuple[str, ...]  # y counts into these
    attribute_names: tuple[str, ...]  # attribute counts into these
    folder: str = ""  # where image files lie; empty where the images are packed beside the table
    # of several attributes, by name, the value of each in every one of attribute_names; empty where there is one
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def split(self, name: str) -> pd.DataFrame:
        """The rows of one split, in table order; the index keeps their numbers in the table."""
        return self.rows[self.rows["split"] == name]


def group_name(names: Any, y: SupportsIndex, attribute: Any, between: str = ", ") -> str:
    """Class and attribute in words. names: with class_names and attribute_names; attribute: -1 or null if unknown."""
    unknown = pd.isna(attribute) or attribute < 0
    return f"{names.class_names[y]}{between}{'unknown' if unknown else names.attribute_names[attribute]}"


def is_minority(counts: Int[Any, "c a"]) -> Bool[Any, "c a"]:
    """Groups whose attribute is rarer within their class than among all images. counts: of training images."""
    # p(a|y) < p(a), multiplied out so that equal shares compare as equal
    return counts * counts.sum() < counts.sum(1)[:, None] * counts.sum(0)[None]


def complete(rows: pd.DataFrame, attribute_names: Sequence[str]) -> pd.DataFrame:
    """Rows with every column of SCHEMA: group is `y * n_attributes + attribute`; null in what is not there."""
    group = rows["y"].astype("Int32") * len(attribute_names) + rows["attribute"].astype("Int32")
    absent = {name: pd.array([pd.NA] * len(rows), "Int64") for name in SCHEMA.names if name not in rows}
    return rows.assign(**absent | {"group": group.astype("Int32")})[SCHEMA.names]


def write_images(path: str | Path, table: ImageTable) -> None:
    """Write an image table. Raises ValueError naming `path` where an id comes twice or a split lacks a class."""
    rows = table.rows
    require_unique(rows["image_id"], f"{path}: image_id")
    there = set(zip(rows["split"], rows["y"], strict=True))
    for split in SPLITS:
        for y, name in enumerate(table.class_names):
            if (split, y) not in there:
                raise ValueError(f"{path}: class {y} ({name}) has no image in the {split} split")
    names = {key: getattr(table, key) for key in ("dataset", "class_names", "attribute_names", "folder")}
    names |= {"cells": dict(table.cells)} if table.cells else {}
    write_parquet(path, pa.Table.from_pandas(rows[SCHEMA.names], SCHEMA, preserve_index=False), names)


def read_images(path: str | Path) -> ImageTable:
    """Read an image table."""
    table, metadata = read_parquet(path, SCHEMA)
    rows = table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}.get)
    names = (tuple(metadata[name]) for name in ("class_names", "attribute_names"))
    cells = {name: tuple(values) for name, values in metadata.get("cells", {}).items()}
    return ImageTable(rows, metadata["dataset"], *names, metadata["folder"], cells)


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

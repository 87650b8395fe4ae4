"""The image table: one row per image, its labels, its split and where its pixels are."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import pyarrow as pa

from hsfm.core.files import read_parquet, read_parquet_in_pieces, require, sha256, write_atomically, write_parquet

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
ROWS_AT_ONCE = 16384  # of a table that is read piece by piece, and of its file's row groups

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
    folder: str  # where image files lie; empty where the images are packed beside the table
    pixels_sha256: dict[str, str]  # by `path`: what the packed array held when the table was written

    def split(self, name: str) -> pd.DataFrame:
        """The rows of one split, in table order; the index keeps their numbers in the table."""
        return self.rows[self.rows["split"] == name]


def group_name(names: Any, y: SupportsIndex, attribute: Any, between: str = ", ") -> str:
    """Class and attribute in words. names: with class_names and attribute_names; attribute: -1 or null if unknown."""
    unknown = pd.isna(attribute) or attribute < 0
    return f"{names.class_names[y]}{between}{'unknown' if unknown else names.attribute_names[attribute]}"


def group_of(y: pd.Series, attribute: pd.Series, n_attributes: int) -> pd.Series:
    """`y * n_attributes + attribute`, null where the attribute is unknown."""
    return (y.astype("Int32") * n_attributes + attribute.astype("Int32")).astype("Int32")


def complete(rows: pd.DataFrame, attribute_names: Sequence[str]) -> pd.DataFrame:
    """Rows with every column of SCHEMA: group from class and attribute, null in what is not there."""
    rows = rows.assign(group=group_of(rows["y"], rows["attribute"], len(attribute_names)))
    absent = {name: pd.array([pd.NA] * len(rows), "Int64") for name in SCHEMA.names if name not in rows}
    return rows.assign(**absent)[SCHEMA.names]


def check_rows(table: ImageTable, source: str | Path) -> ImageTable:
    """Return `table` if every row's labels, group and split are sound; else raise ValueError naming `source`."""
    rows = table.rows
    for column, names in (("y", table.class_names), ("attribute", table.attribute_names)):
        if column == "y" and rows["y"].isna().any():
            raise ValueError(f"{source}: image {rows.loc[rows['y'].isna(), 'image_id'].iloc[0]!r} has no class")
        wrong = rows[column].notna() & ~rows[column].isin(range(len(names)))
        if wrong.any():
            row = rows[wrong].iloc[0]
            raise ValueError(
                f"{source}: image {row['image_id']!r} has {column} {row[column]}; "
                f"allowed are 0 to {len(names) - 1} ({', '.join(names)})"
            )
    expected = group_of(rows["y"], rows["attribute"], len(table.attribute_names))
    wrong = (expected.fillna(-1) != rows["group"].astype("Int32").fillna(-1)).to_numpy()
    if wrong.any():
        row = rows[wrong].iloc[0]
        raise ValueError(
            f"{source}: image {row['image_id']!r} has group {row['group']}, "
            f"but y * n_attributes + attribute is {expected[wrong].iloc[0]}"
        )
    unknown = set(rows["split"].unique()) - set(SPLITS)
    if unknown:
        raise ValueError(f"{source}: unknown split {sorted(unknown)[0]!r}; allowed are {', '.join(SPLITS)}")
    return table


def check_images(table: ImageTable, source: str | Path) -> ImageTable:
    """Return `table` if it is sound as a whole: `check_rows`, unique ids, and images of every class in every split.

    Raises ValueError naming `source` otherwise.
    """
    rows = check_rows(table, source).rows
    if rows["image_id"].duplicated().any():
        raise ValueError(
            f"{source}: image id {rows.loc[rows['image_id'].duplicated(), 'image_id'].iloc[0]!r} is not unique"
        )
    counts = pd.crosstab(rows["split"], rows["y"])
    for split in SPLITS:
        for y, name in enumerate(table.class_names):
            if counts.get(y, pd.Series(dtype=int)).get(split, 0) == 0:
                raise ValueError(f"{source}: class {y} ({name}) has no image in the {split} split")
    return table


def write_images(path: str | Path, table: ImageTable) -> None:
    """Write a checked image table."""
    check_images(table, path)
    metadata = {
        "dataset": table.dataset,
        "class_names": table.class_names,
        "attribute_names": table.attribute_names,
        "folder": table.folder,
        "pixels_sha256": table.pixels_sha256,
    }
    rows = pa.Table.from_pandas(table.rows[SCHEMA.names], SCHEMA, preserve_index=False)
    write_parquet(path, rows, metadata, row_group_size=ROWS_AT_ONCE)


def read_images(path: str | Path) -> ImageTable:
    """Read and check an image table; every error names the file and the image."""
    table, metadata = read_parquet(path, SCHEMA)
    return check_images(_with_names(_frame(table), metadata, path), path)


def read_pieces(path: str | Path) -> Iterator[ImageTable]:
    """The same table in pieces of `ROWS_AT_ONCE` rows, each checked, so that memory does not grow with the table.

    The index goes on from piece to piece. What only the whole table shows, `write_images` has checked.
    """
    pieces, metadata = read_parquet_in_pieces(path, SCHEMA, ROWS_AT_ONCE)
    first = 0
    for piece in pieces:
        rows = _frame(piece).set_index(pd.RangeIndex(first, first + len(piece)))
        first += len(piece)
        yield check_rows(_with_names(rows, metadata, path), path)


def read_names(path: str | Path) -> ImageTable:
    """An image table without its rows."""
    _, metadata = read_parquet_in_pieces(path, SCHEMA, ROWS_AT_ONCE)
    return _with_names(_frame(SCHEMA.empty_table()), metadata, path)


def _frame(table: pa.Table | pa.RecordBatch) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}.get)


def _with_names(rows: pd.DataFrame, metadata: Mapping[str, Any], path: str | Path) -> ImageTable:
    require(metadata, ("dataset", "class_names", "attribute_names", "folder", "pixels_sha256"), path)
    return ImageTable(
        rows=rows,
        dataset=metadata["dataset"],
        class_names=tuple(metadata["class_names"]),
        attribute_names=tuple(metadata["attribute_names"]),
        folder=metadata["folder"],
        pixels_sha256=metadata["pixels_sha256"],
    )


def leave_out_unreadable(
    table: ImageTable, problem: pd.Series, report: str | Path, *, on_bad_image: str
) -> tuple[ImageTable, pd.DataFrame]:
    """The table without images that cannot be read, and a listing of these.

    problem: per row why it cannot be read, null where it can. report: the file that will list them, for messages.
    Raises ValueError that names the first ten where `on_bad_image` is `stop`; with `skip` it is a warning.
    """
    bad = problem.notna()
    listing = table.rows.loc[bad, ["image_id", "path", "split"]].assign(problem=problem[bad])
    if bad.any():
        few = "; ".join(f"{row.path}: {row.problem}" for row in listing.head(10).itertuples())
        message = (
            f"{table.folder}: cannot read {bad.sum()} of {len(bad)} images: {few}{'; ...' if bad.sum() > 10 else ''}"
        )
        if on_bad_image == "stop":
            raise ValueError(f"{message}; on_bad_image: skip leaves such images out")
        log.warning("%s; they are left out and listed in %s", message, report)
    return replace(table, rows=table.rows[~bad].reset_index(drop=True)), listing


def write_readable(
    path: str | Path, table: ImageTable, found: pd.DataFrame, report: str | Path, *, on_bad_image: str
) -> tuple[ImageTable, pd.DataFrame]:
    """Write the table with the sizes of its images, without those that cannot be read, and list these in `report`.

    found: per row height, width, and problem as in `leave_out_unreadable`, whose result is returned.
    """
    measured = replace(table, rows=table.rows.assign(height=found["height"], width=found["width"]))
    readable, listing = leave_out_unreadable(measured, found["problem"], report, on_bad_image=on_bad_image)
    write_images(path, readable)
    with write_atomically(report) as temporary:
        listing.to_csv(temporary, index=False)
    return readable, listing


def check_pixels(table: ImageTable, folder: str | Path) -> None:
    """Raise ValueError naming a packed array that is not what it was when the table was written."""
    for name, expected in table.pixels_sha256.items():
        found = sha256(Path(folder, name))
        if found != expected:
            raise ValueError(
                f"{Path(folder, name)}: has SHA-256 {found}, but the image table was written for {expected}"
            )

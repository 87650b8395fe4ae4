"""Users' own tables: what they may look like, and what is refused."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hsfm.data.sources import metadata
from hsfm.data.table import Listing
from tests import replicas

COLUMNS = replicas.METADATA_COLUMNS


def read(folder: Path, table: str = "metadata.csv", columns: dict = COLUMNS) -> Listing:
    settings = {"source": "metadata", "folder": str(folder), "metadata": str(folder / table), "columns": columns}
    return metadata.read(metadata.Settings(**settings))


def names(listing: Listing) -> tuple[list, list]:
    """Class and attribute of every row by name."""
    y = [listing.class_names[code] for code in listing.rows["y"]]
    return y, [None if pd.isna(code) else listing.attribute_names[code] for code in listing.rows["attribute"]]


# What a table may look like -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.parquet"])
def test_names_are_numbered_alphabetically(tmp_path, table):
    frame = replicas.write_metadata(tmp_path, table=table, classes=("cow", "Bee", "ant"), attributes=("new", "old"))
    listing = read(tmp_path, table)
    assert listing.class_names == ("Bee", "ant", "cow")
    assert listing.attribute_names == ("new", "old")
    assert names(listing) == (frame["label"].tolist(), frame["place"].tolist())
    assert listing.rows["path"].tolist() == frame["file"].tolist()
    assert listing.rows["image_id"].tolist() == frame["id"].tolist()
    assert listing.rows["split"].tolist() == frame["split"].tolist()


@pytest.mark.parametrize(
    ("table", "unknown"), [("metadata.csv", ()), ("metadata.csv", (0, 1, 2)), ("metadata.parquet", (0, 2))]
)
def test_integers_are_numbered_numerically_and_empty_attributes_are_unknown(tmp_path, table, unknown):
    frame = replicas.write_metadata(
        tmp_path, table=table, classes=(10, 9, -2), attributes=(100, 20, 3), splits=(0, 1, 2), unknown=unknown
    )
    listing = read(tmp_path, table)  # beside empty cells pandas writes 3 as 3.0
    assert listing.class_names == ("-2", "9", "10")
    assert listing.attribute_names == (() if len(unknown) == 3 else ("3", "20", "100"))
    expected = [None if pd.isna(place) else str(int(place)) for place in frame["place"]]
    assert names(listing) == (frame["label"].astype(str).tolist(), expected)
    assert listing.rows["split"].tolist() == [("train", "val", "test")[code] for code in frame["split"]]
    assert (listing.rows["attribute"].isna() == frame["split"].isin(unknown)).all()


def test_attributes_and_ids_may_be_absent(tmp_path):
    columns = {**COLUMNS, "attribute": None, "id": None}
    replicas.write_metadata(tmp_path, columns=columns)
    listing = read(tmp_path, columns=columns)
    assert listing.attribute_names == ()
    assert listing.rows["attribute"].isna().all()
    assert (listing.rows["image_id"] == listing.rows["path"]).all()


@pytest.mark.parametrize("splits", [("Train", "VALIDATION", " test"), ("0", "1.0", "2")])
def test_splits_have_several_names(tmp_path, splits):
    expected = replicas.write_metadata(tmp_path / "plain")
    replicas.write_metadata(tmp_path / "other", splits=splits)
    assert read(tmp_path / "other").rows["split"].tolist() == expected["split"].tolist()


def test_labels_that_pandas_would_take_for_nothing_are_labels(tmp_path):
    replicas.write_metadata(tmp_path, classes=("NA", "None", "nan"), attributes=("null", "001"))
    listing = read(tmp_path)
    assert listing.class_names == ("NA", "None", "nan")
    assert listing.attribute_names == ("001", "null")
    assert listing.rows["attribute"].notna().all()


def test_blanks_a_byte_order_mark_captions_and_categories_are_harmless(tmp_path):
    frame = replicas.write_metadata(tmp_path)
    expected = read(tmp_path).rows
    table = tmp_path / "metadata.csv"
    captioned = frame.assign(
        caption='a "quoted" line\nand, with a comma, another\n' * 1000, label=" " + frame["label"] + "  "
    )
    captioned = captioned.assign(file="./" + captioned["file"])
    table.write_bytes(b"\xef\xbb\xbf" + captioned.to_csv(index=False).encode())
    pd.testing.assert_frame_equal(read(tmp_path).rows, expected)
    frame.astype({"label": "category", "place": "category"}).to_parquet(tmp_path / "metadata.parquet")
    pd.testing.assert_frame_equal(read(tmp_path, "metadata.parquet").rows, expected)


# What is refused ------------------------------------------------------------------------------------------------------


def put(column: str, row: int, value):
    """A change: another value in a row, counted from 1."""
    return lambda frame: frame.assign(**{column: frame[column].where(frame.index != row - 1, value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="place"), "no column 'place'; the columns are id, file, "),
        (
            lambda f: pd.concat([f, f["label"]], axis=1),
            "more than one column 'label'; the columns are .*, label",
        ),
        (put("split", 7, "dev"), "column 'split' holds 'dev' in row 7; allowed are 0, 1, 2, train, val, valid"),
        (put("split", 7, None), "column 'split' is empty in row 7"),
        (put("label", 9, "  "), "column 'label' is empty in row 9"),
        (put("id", 5, "image 0"), "column 'id' holds 'image 0' twice, in rows 1 and 5"),
        (put("file", 5, "./images/a/000.png"), "column 'file' holds 'images/a/000.png' twice, in rows 1 and 5"),
        (put("file", 5, "/images/a/000.png"), "'file' holds '/images/a/000.png' in row 5; allowed are paths relat"),
        (put("file", 5, "images/../a.png"), "holds 'images/../a.png' in row 5; allowed are paths relative"),
        (put("file", 5, "images\\a.png"), "in row 5; allowed are paths relative"),
        (lambda f: f[f["label"] == "bee"], r"holds 1 class \(bee\), expected at least 2"),
    ],
)
def test_a_table_that_is_wrong_is_named_with_row_and_value(tmp_path, change, message):
    path = tmp_path / "metadata.csv"
    frame = change(replicas.write_metadata(tmp_path))
    frame.to_csv(path, index=False)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read(tmp_path)
    path = path.with_suffix(".parquet")
    pq.write_table(pa.table([pa.array(column) for _, column in frame.items()], list(frame)), path)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read(tmp_path, path.name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"", "not a readable table"),
        ("metadata.csv", b"id,file,split,label,place\n1,a.png,0\n", "not a readable table .*Expected 5 columns, got 3"),
        ("metadata.parquet", b"PAR1", "not a readable table"),
        ("metadata.xlsx", b"", "a table of labels is a .csv or a .parquet file"),
        ("metadata.csv", None, "no such table"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name}: {message}"):
        read(tmp_path, name)

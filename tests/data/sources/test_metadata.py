"""Users' own tables: what they may look like, and what is refused."""

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hsfm.data.sources import metadata
from hsfm.data.table import Listing
from tests import replicas

COLUMNS = replicas.METADATA_COLUMNS
HEADER = b"id,file,split,label,place\n"


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


def test_several_attributes_are_one_of_their_cells(tmp_path):
    frame = replicas.write_metadata(tmp_path, attributes=("new", "old"))
    frame["size"] = ["big", "small", None] * (len(frame) // 3) + ["big"] * (len(frame) % 3)
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    columns = {name: of for name, of in COLUMNS.items() if name != "attribute"} | {"attributes": ["place", "size"]}
    listing = read(tmp_path, columns=columns)
    assert listing.cells == {"place": ("new", "new", "old", "old"), "size": ("big", "small") * 2}
    known = frame["place"].notna() & frame["size"].notna()
    expected = ("place " + frame["place"] + ", size " + frame["size"]).where(known, None)
    assert names(listing)[1] == expected.replace({float("nan"): None}).tolist()
    with pytest.raises(ValueError, match="columns: attribute and attributes; one of them is allowed"):
        read(tmp_path, columns=columns | {"attribute": "place"})


@pytest.mark.parametrize("splits", [("Train", "VALIDATION", " test"), ("0", "1.0", "2")])
def test_splits_have_several_names(tmp_path, splits):
    expected = replicas.write_metadata(tmp_path / "plain")
    replicas.write_metadata(tmp_path / "other", splits=splits)
    assert read(tmp_path / "other").rows["split"].tolist() == expected["split"].tolist()


def test_labels_that_pandas_would_take_for_nothing_are_labels_with_a_warning(tmp_path, caplog):
    replicas.write_metadata(tmp_path, classes=("NA", "None", "a"), attributes=("null", "001"))
    listing = read(tmp_path)
    assert listing.class_names == ("NA", "None", "a")
    assert listing.attribute_names == ("001", "null")
    assert listing.rows["attribute"].notna().all()
    assert "column 'label': NA, None is a label like any other" in caplog.text


def test_numbers_of_one_length_are_names_that_many_images_share(tmp_path):
    frame = replicas.write_metadata(tmp_path)
    frame.assign(place=[f"{i % 12:03d}" for i in frame.index]).to_csv(tmp_path / "metadata.csv", index=False)
    assert read(tmp_path).attribute_names == tuple(f"{i:03d}" for i in range(12))


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.parquet"])
def test_the_text_nan_is_an_unknown_attribute(tmp_path, table):
    replicas.write_metadata(tmp_path, table=table, attributes=("NaN", "day"))
    assert read(tmp_path, table).attribute_names == ("day",)


def test_a_float_that_is_nan_is_an_unknown_attribute(tmp_path):
    frame = replicas.write_metadata(tmp_path, attributes=(1, 2), unknown=("val",))
    table = pa.Table.from_pandas(frame.drop(columns="place")).append_column(
        "place", pa.array(frame["place"].to_numpy())
    )
    pq.write_table(table, tmp_path / "metadata.parquet")
    assert read(tmp_path, "metadata.parquet").attribute_names == ("1", "2")


@pytest.mark.parametrize(
    ("attributes", "names", "warning"),
    [
        ((-1, 1), ("-1", "1"), "column 'place': holds -1 and 1 alone, so -1 is taken for a value"),
        ((-1, 0), ("0",), "column 'place': -1 is taken for unknown, in"),
        ((-1, "day"), ("day",), "column 'place': -1 is taken for unknown"),
    ],
)
def test_minus_one_is_unknown_but_beside_1_alone(tmp_path, caplog, attributes, names, warning):
    frame = replicas.write_metadata(tmp_path, attributes=attributes)
    listing = read(tmp_path)
    assert listing.attribute_names == names
    assert listing.rows["attribute"].isna().tolist() == (frame["place"].map(str) == "-1").tolist() or "-1" in names
    assert warning in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_labels_and_paths_are_compared_in_one_unicode_form(tmp_path, form):
    frame = replicas.write_metadata(tmp_path, classes=("caf\u00e9", "cafe\u0301", "dog"))
    (tmp_path / "images/a").rename(tmp_path / "images/\u00e5")
    (tmp_path / "images/\u00e5/000.png").rename(tmp_path / "images/\u00e5/e\u0301.png")
    paths = frame["file"].replace("images/a/000.png", "images/a/\u00e9.png").str.replace("/a/", "/\u00e5/")
    frame.assign(file=paths.str.normalize(form)).to_csv(tmp_path / "metadata.csv", index=False)
    listing = read(tmp_path, columns={**COLUMNS, "id": None})
    assert listing.class_names == ("caf\u00e9", "dog")
    assert listing.rows["path"][0] == "images/\u00e5/e\u0301.png"  # as it is on disk
    assert listing.rows["image_id"][0] == "images/\u00e5/\u00e9.png"
    assert all((tmp_path / path).is_file() for path in listing.rows["path"])


@pytest.mark.parametrize("other", ["Dog", "dog\u200b", "d\u00adog", "\uff44og"])
def test_labels_that_look_alike_are_named(tmp_path, caplog, other):
    replicas.write_metadata(tmp_path, classes=("cat", "dog", other))
    assert len(read(tmp_path).class_names) == 3
    shown = " and ".join(map(repr, sorted(("dog", other))))
    assert f"column 'label': labels that differ by case or invisibly alone count as different: {shown}" in caplog.text


def test_labels_that_look_different_are_not_named(tmp_path, caplog):
    replicas.write_metadata(tmp_path, classes=("cat dog", "catdog", "caf\u00e9"))
    read(tmp_path)
    assert not caplog.text


@pytest.mark.parametrize("table", ["METADATA.CSV", "METADATA.PARQUET"])
def test_the_case_of_an_ending_and_blanks_around_names_are_harmless(tmp_path, table):
    frame = replicas.write_metadata(tmp_path).rename(columns={"label": " label "})
    frame.to_csv(tmp_path / table, index=False) if table.endswith("CSV") else frame.to_parquet(tmp_path / table)
    assert read(tmp_path, table).class_names == ("ant", "bee", "crab")


def test_a_blank_before_a_quote_is_harmless(tmp_path):
    frame = replicas.write_metadata(tmp_path, classes=("a, b", "c", "d"))
    (tmp_path / "metadata.csv").write_text(frame.to_csv(index=False).replace(",", ", ").replace("a,  b", "a, b"))
    assert read(tmp_path).class_names == ("a, b", "c", "d")


@pytest.mark.parametrize("lost", [1, 3])
def test_rows_that_two_stray_quotes_hide_are_named(tmp_path, caplog, lost):
    captions = replicas.write_metadata(tmp_path).assign(caption="a cat")
    captions.loc[4, "caption"], captions.loc[4 + lost, "caption"] = "<a cat", 'a cat"'
    text = captions.to_csv(index=False, quoting=csv.QUOTE_NONE, escapechar="\\").replace("\\", "").replace("<", '"')
    (tmp_path / "metadata.csv").write_text(text)
    assert len(read(tmp_path).rows) == len(captions) - lost
    assert "seem to hold whole rows, which are lost: in row 5" in caplog.text
    assert not caplog.records[1:]


def test_captions_with_line_breaks_are_not_named(tmp_path, caplog):
    replicas.write_metadata(tmp_path).assign(caption="a, b\nc, d\n\n").to_csv(tmp_path / "metadata.csv")
    read(tmp_path)
    assert not caplog.text


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
        (put("label", 9, "nan"), r"column 'label' is empty in row 9 \(or nan\)"),
        (
            lambda f: f.assign(label=f["file"]),
            "column 'label': 117 of its 117 values occur once, such as 'images/.*png'; expected labels that images sha",
        ),
        (lambda f: f.assign(place=f.index / 7), "column 'place': 117 of its 117 values occur once"),
        (lambda f: f.assign(place=f.index % 11 / 8), "column 'place': 11 fractions, such as '0.125'; expected labels"),
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
        ("metadata.csv", b"", "its first line is '', expected names of columns"),
        ("metadata.csv", HEADER + b"1,a.png,0\n", "row 1, up to line 2, has 3 cells, not 5"),
        (
            "metadata.csv",
            HEADER + b'1,a,0,ant,x\n2,"b,0,ant,x\n3,c,0,ant,x\n',
            "row 2, from line 3: a quote is not clo",
        ),
        ("metadata.csv", HEADER + b'1,"a,0,ant,x\n2,"b",0,ant,x\n', "row 1, from line 2: a quote is not closed before"),
        ("metadata.csv", b"sep=,\n" + HEADER, "its first line is 'sep=,', expected names of columns"),
        ("metadata.csv", b"# mine, all\n" + HEADER, "its first line is '# mine,all', expected names of columns"),
        ("metadata.csv", HEADER.replace(b",", b";"), "its first line is 'id;file;split;label;place', expected names"),
        ("metadata.csv", HEADER.decode().encode("utf-16"), "is UTF-16 or no text, expected UTF-8"),
        ("metadata.csv", HEADER.decode().encode("utf-16-le"), "is UTF-16 or no text, expected UTF-8"),
        ("metadata.csv", HEADER + b"1,a,0,caf\xe9,x\n", r"line 2 holds b'\\xe9', which is not UTF-8"),
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


def test_files_are_looked_for_by_case(tmp_path):
    frame = replicas.write_metadata(tmp_path)
    frame.assign(file=frame["file"].str.replace("png", "PNG")).to_csv(tmp_path / "metadata.csv", index=False)
    message = r"117 of the 117 .*: images/a/000.PNG, .* \(117 in all\); there is '000.png', which differs by case"
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_path_with_a_hidden_character_shows_it(tmp_path):
    frame = put("file", 1, "images/a/000\u200b.png")(replicas.write_metadata(tmp_path))
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=r"1 of the 117 .*: 'images/a/000\\u200b.png'; there is '000.png'"):
        read(tmp_path)

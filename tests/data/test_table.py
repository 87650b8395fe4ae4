from dataclasses import replace

import pandas as pd
import pytest

from hsfm.core.files import sha256
from hsfm.data.table import (
    SCHEMA,
    ImageTable,
    check_pixels,
    complete,
    group_of,
    read_images,
    write_images,
    write_readable,
)


def table(**columns) -> ImageTable:
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(6)],
            "path": "pixels.npy",
            "index": range(6),
            "y": [0, 1] * 3,
            "attribute": pd.array([0, 1, None, None, 1, 0], dtype="Int32"),
            "split": ["train", "train", "val", "val", "test", "test"],
            "height": 64,
            "width": 64,
        }
    ).assign(**columns)
    if "group" not in rows:
        rows["group"] = group_of(rows["y"], rows["attribute"], 2)
    return ImageTable(rows, "toy", ("cat", "dog"), ("in", "out"), "", {"pixels.npy": "0" * 64})


def test_round_trip_keeps_unknown_attributes(tmp_path):
    path = tmp_path / "images.parquet"
    write_images(path, table())
    read = read_images(path)
    assert read.rows["group"].tolist() == [0, 3, pd.NA, pd.NA, 1, 2]
    assert read.class_names == ("cat", "dog")
    assert read.pixels_sha256 == {"pixels.npy": "0" * 64}
    assert read.split("val")["image_id"].tolist() == ["i2", "i3"]


def test_a_packed_array_that_has_changed_is_named(tmp_path):
    (tmp_path / "pixels.npy").write_bytes(b"some pixels")
    good = replace(table(), pixels_sha256={"pixels.npy": sha256(tmp_path / "pixels.npy")})
    check_pixels(good, tmp_path)
    (tmp_path / "pixels.npy").write_bytes(b"some pixelz")
    with pytest.raises(ValueError, match=r"pixels.npy: has SHA-256 [0-9a-f]{64}, but the image table was written for"):
        check_pixels(good, tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [0, 1, 0, 1, 0, 2]}, r"image 'i5' has y 2; allowed are 0 to 1 \(cat, dog\)"),
        ({"attribute": pd.array([0, -1, 0, 0, 0, 0], dtype="Int32")}, "image 'i1' has attribute -1"),
        ({"group": pd.array([0, 2, None, None, 1, 2], dtype="Int32")}, "image 'i1' has group 2, but .* is 3"),
        (
            {"split": ["train", "train", "val", "val", "test", "dev"]},
            "unknown split 'dev'; allowed are train, val, test",
        ),
        ({"image_id": ["a", "b", "c", "d", "e", "a"]}, "image id 'a' is not unique"),
        (
            {"split": ["train", "train", "val", "train", "test", "test"]},
            r"class 1 \(dog\) has no image in the val split",
        ),
        ({"y": pd.array([0, 1, None, 1, 0, 1], dtype="Int32")}, "image 'i2' has no class"),
    ],
)
def test_bad_tables_are_refused_and_not_written(tmp_path, columns, message):
    path = tmp_path / "images.parquet"
    with pytest.raises(ValueError, match=message) as caught:
        write_images(path, table(**columns))
    assert str(path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_rows_are_completed():
    rows = complete(table().rows[["image_id", "path", "y", "attribute", "split"]], ("in", "out"))
    assert rows.columns.tolist() == SCHEMA.names
    assert rows["group"].tolist() == [0, 3, pd.NA, pd.NA, 1, 2]
    assert rows[["index", "height", "width"]].isna().all(axis=None)


def test_image_files_need_no_index_and_keep_their_folder(tmp_path):
    rows = complete(table().rows.drop(columns=["index", "height"]), ("in", "out"))
    write_images(tmp_path / "listed.parquet", replace(table(), rows=rows, folder="photos", pixels_sha256={}))
    read = read_images(tmp_path / "listed.parquet")
    assert read.folder == "photos"
    assert read.rows["index"].isna().all()
    assert read.rows["height"].isna().all()
    assert read.rows["width"].tolist() == [64] * 6


def test_what_can_be_read_is_written_with_its_size_and_the_rest_is_listed(tmp_path):
    rows = [*table().rows["image_id"], "i6"]
    seven = table().rows.iloc[[*range(6), 0]].assign(image_id=rows, height=None, width=None)
    whole = replace(table(), rows=seven.reset_index(drop=True))
    problem = pd.Series([None] * 6 + ["damaged"], dtype="string")
    found = pd.DataFrame({"height": range(1, 8), "width": 9, "problem": problem}).astype({"height": "Int32"})
    paths = tmp_path / "images.parquet", tmp_path / "unreadable.csv"
    readable, listing = write_readable(paths[0], whole, found, paths[1], on_bad_image="skip")
    assert readable.rows["height"].tolist() == read_images(paths[0]).rows["height"].tolist() == [1, 2, 3, 4, 5, 6]
    assert pd.read_csv(paths[1]).to_dict("records") == listing.to_dict("records")
    assert listing["image_id"].tolist() == ["i6"]
    with pytest.raises(ValueError, match=r"cannot read 1 of 7 images: pixels.npy: damaged"):
        write_readable(tmp_path / "none.parquet", whole, found, paths[1], on_bad_image="stop")
    assert not (tmp_path / "none.parquet").exists()

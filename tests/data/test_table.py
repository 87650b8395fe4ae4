from dataclasses import replace

import pandas as pd
import pytest

from hsfm.data.table import SCHEMA, ImageTable, complete, read_images, write_images, write_readable


def table(folder: str = "", **columns) -> ImageTable:
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(6)],
            "path": "pixels.npy",
            "y": [0, 1] * 3,
            "attribute": pd.array([0, 1, None, None, 1, 0], dtype="Int32"),
            "split": ["train", "train", "val", "val", "test", "test"],
            "width": 64,
        }
    ).assign(**columns)
    return ImageTable(complete(rows, ("in", "out")), "toy", ("cat", "dog"), ("in", "out"), folder)


@pytest.mark.parametrize("folder", ["", "photos"])
def test_round_trip_keeps_what_is_unknown(tmp_path, folder):
    write_images(tmp_path / "images.parquet", table(folder))
    read = read_images(tmp_path / "images.parquet")
    assert read.rows.columns.tolist() == SCHEMA.names
    assert read.rows["group"].tolist() == [0, 3, pd.NA, pd.NA, 1, 2]
    assert read.rows["width"].tolist() == [64] * 6
    assert read.rows[["index", "height"]].isna().all(axis=None)
    assert (read.class_names, read.attribute_names) == (("cat", "dog"), ("in", "out"))
    assert (read.dataset, read.folder) == ("toy", folder)
    assert read.split("val")["image_id"].tolist() == ["i2", "i3"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": ["a", "b", "c", "d", "e", "a"]}, "image_id holds 'a' twice, in rows 1 and 6"),
        ({"split": ["train", "train", "val", "train", "test", "test"]}, r"class 1 \(dog\) has no image in the val"),
    ],
)
def test_bad_tables_are_refused_and_not_written(tmp_path, columns, message):
    path = tmp_path / "images.parquet"
    with pytest.raises(ValueError, match=rf"{path}: .*{message}"):
        write_images(path, table(**columns))
    assert not list(tmp_path.iterdir())


def test_what_can_be_read_is_written_with_its_size_and_the_rest_is_listed(tmp_path):
    rows = pd.concat([table().rows, table().rows.tail(1)], ignore_index=True)
    whole = replace(table("photos"), rows=rows.assign(image_id=[f"i{n}" for n in range(7)]))
    found = pd.DataFrame({"height": range(1, 8), "width": 9, "problem": None}).astype({"problem": "string"})
    found.loc[5, "problem"] = "damaged"
    paths = tmp_path / "images.parquet", tmp_path / "unreadable.csv"
    listing = write_readable(paths[0], whole, found, paths[1], on_bad_image="skip")
    assert read_images(paths[0]).rows["height"].tolist() == [1, 2, 3, 4, 5, 7]
    assert pd.read_csv(paths[1]).to_dict("records") == listing.to_dict("records")
    assert listing["image_id"].tolist() == ["i5"]
    with pytest.raises(ValueError, match=r"photos: cannot read 1 of 7 images: pixels.npy: damaged"):
        write_readable(tmp_path / "none.parquet", whole, found, paths[1], on_bad_image="stop")
    assert not (tmp_path / "none.parquet").exists()

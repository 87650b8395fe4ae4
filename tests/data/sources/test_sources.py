"""Waterbirds, CelebA and MetaShift as they lie on disk, and the published counts."""

import os
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hsfm.data import counts
from hsfm.data.sources import celeba, metashift, waterbirds
from hsfm.data.table import ImageTable, Listing, complete, read_images, write_images
from tests import replicas

READERS = {"waterbirds": waterbirds, "celeba": celeba, "metashift": metashift}
LAYOUTS = ("torchvision", "kaggle", "dfr")


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> Path:
    """One replica of each layout, to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("replicas")
    replicas.write_waterbirds(folder / "waterbirds")
    replicas.write_metashift(folder / "metashift")
    for layout in LAYOUTS:
        replicas.write_celeba(folder / layout, layout)
    return folder


@pytest.fixture
def folder(originals, tmp_path):
    """A replica of one's own: call it with the name of the layout."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(originals / name, tmp_path / name))

    return copy


def read(name: str, folder: Path) -> Listing:
    """The listing of a replica by the name of its layout."""
    source = name if name in READERS else "celeba"
    return READERS[source].read(READERS[source].Settings(source=source, folder=str(folder)))


def edit(table: Path, old: str, new: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["waterbirds", "metashift", *LAYOUTS])
def test_a_listing_becomes_a_table_and_its_images_open(originals, tmp_path, name):
    listing = read(name, originals / name)
    names = listing.class_names, listing.attribute_names
    rows = complete(listing.rows, listing.attribute_names)
    write_images(tmp_path / "images.parquet", ImageTable(rows, "replica", *names, str(originals / name)))
    rows = read_images(tmp_path / "images.parquet").rows
    for path in rows["path"]:
        with Image.open(originals / name / path) as image:
            image.verify()
    assert (rows[rows["split"] == "val"].groupby("group").size() >= 8).all()


@pytest.mark.parametrize("name", ["waterbirds", "torchvision", "kaggle", "dfr"])
def test_missing_images_are_counted_and_three_are_named(folder, name):
    place = folder(name)
    lost = sorted(place.rglob("*.jpg"))[5:9]
    for path in lost:
        path.unlink()
    with pytest.raises(ValueError, match=r"4 of the 78 images in it are not in ") as caught:
        read(name, place)
    message = str(caught.value)
    assert sum(str(path.relative_to(place)) in message for path in lost) == 3
    assert "http" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("waterbirds", r"holds no metadata.csv. Unpack https://nlp.stanford.edu/data/dro/waterbird_comp"),
        ("celeba", r"no whole set of CelebA's tables. CelebA cannot be fetched without an account"),
        ("metashift", r"no images in train/cat/cat\(sofa\), .*, test/dog/dog\(shelf\). .* without an account: .*DISC"),
    ],
)
def test_an_empty_folder_says_what_belongs_there_and_whence(tmp_path, name, message):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=message):
            read(name, place)


# Waterbirds -----------------------------------------------------------------------------------------------------------


def test_waterbirds_follows_its_table(originals):
    listing = read("waterbirds", originals / "waterbirds")
    table = pd.read_csv(originals / "waterbirds/metadata.csv")
    assert listing.rows["image_id"].tolist() == table["img_filename"].tolist()
    assert listing.rows["y"].tolist() == table["y"].tolist()
    assert listing.rows["attribute"].tolist() == table["place"].tolist()
    assert listing.rows["split"].tolist() == table["split"].map({0: "train", 1: "val", 2: "test"}).tolist()
    assert (listing.class_names, listing.attribute_names) == (("landbird", "waterbird"), ("land", "water"))


def test_the_folder_that_the_archive_was_unpacked_in_will_do(originals, tmp_path):
    inside = read("waterbirds", originals / "waterbirds").rows
    shutil.copytree(originals / "waterbirds", tmp_path / "waterbird_complete95_forest2water2")
    rows = read("waterbirds", tmp_path).rows
    assert rows["path"].tolist() == ("waterbird_complete95_forest2water2/" + inside["path"]).tolist()
    pd.testing.assert_frame_equal(rows.drop(columns="path"), inside.drop(columns="path"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,a.jpg,2,0,1,x", r"metadata.csv: column 'y' holds '2' in row 3; allowed are 0, 1"),
        ("3,a.jpg,1,3,1,x", r"metadata.csv: column 'split' holds '3' in row 3; allowed are 0, 1, 2"),
        ("3,a.jpg,1,0,,x", r"metadata.csv: column 'place' is empty in row 3"),
    ],
)
def test_waterbirds_names_what_is_wrong_in_its_table(folder, row, message):
    place = folder("waterbirds")
    edit(place / "metadata.csv", "\n3,", f"\n{row}\n3,")
    with pytest.raises(ValueError, match=message):
        read("waterbirds", place)


# CelebA ---------------------------------------------------------------------------------------------------------------


def test_the_three_layouts_of_celeba_say_the_same(originals):
    rows = {layout: read("celeba", originals / layout).rows for layout in LAYOUTS}
    assert rows["kaggle"]["path"].iloc[0] == "img_align_celeba/img_align_celeba/000001.jpg"
    assert rows["dfr"]["path"].iloc[0] == rows["torchvision"]["path"].iloc[0] == "img_align_celeba/000001.jpg"
    for layout in ("kaggle", "dfr"):
        pd.testing.assert_frame_equal(rows[layout].drop(columns="path"), rows["torchvision"].drop(columns="path"))
    expected = replicas.labels(np.random.default_rng(0))
    assert rows["dfr"]["y"].tolist() == expected["y"].tolist()
    assert rows["dfr"]["attribute"].tolist() == expected["attribute"].tolist()


def test_torchvision_reads_the_same_from_the_replica(originals, tmp_path):
    from torchvision.datasets import CelebA

    class Unchecked(CelebA):
        def _check_integrity(self) -> bool:
            return True

    place = tmp_path / "celeba"
    shutil.copytree(originals / "torchvision", place)
    rows = read("celeba", place).rows
    for table in ("identity_CelebA", "list_bbox_celeba", "list_landmarks_align_celeba"):  # which it reads as well
        header = "" if table.startswith("identity") else "78\nx y\n"
        (place / f"{table}.txt").write_text(header + "".join(f"{name} 1 2\n" for name in rows["image_id"]))
    for split, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        theirs, ours = Unchecked(tmp_path, split=split, target_type="attr"), rows[rows["split"] == name]
        assert ours["image_id"].tolist() == theirs.filename
        assert ours["y"].tolist() == theirs.attr[:, theirs.attr_names.index("Blond_Hair")].tolist()
        assert ours["attribute"].tolist() == theirs.attr[:, theirs.attr_names.index("Male")].tolist()


def test_the_images_of_dfr_may_lie_in_the_folder_itself_or_where_the_table_says(folder):
    place = folder("dfr")
    expected = read("celeba", place).rows.drop(columns="path")
    (place / "img_align_celeba").rename(place / "faces")
    text = (place / "metadata.csv").read_text()
    (place / "metadata.csv").write_text(text.replace(",000", ",faces/000"))
    pd.testing.assert_frame_equal(read("celeba", place).rows.drop(columns="path"), expected)
    (place / "metadata.csv").write_text(text)
    for path in (place / "faces").iterdir():
        path.rename(place / path.name)
    pd.testing.assert_frame_equal(read("celeba", place).rows.drop(columns="path"), expected)


@pytest.mark.parametrize(
    ("layout", "table", "old", "new", "message"),
    [
        ("torchvision", "list_attr_celeba.txt", " Male", " Mail", "not readable tables .*Male"),
        ("torchvision", "list_attr_celeba.txt", "000002.jpg -1", "000002.jpg -1 1", "not readable tables"),
        ("torchvision", "list_eval_partition.txt", "000002.jpg 2", "000002.jpg 3", "holds '3' in row 2; allowed"),
        ("torchvision", "list_eval_partition.txt", "000002.jpg", "999999.jpg", "'Blond_Hair' is empty in row 79"),
        ("kaggle", "list_eval_partition.csv", "000002.jpg,2\n", "", "'partition' is empty in row 2"),
    ],
)
def test_celeba_names_what_is_wrong_in_its_tables(folder, layout, table, old, new, message):
    place = folder(layout)
    edit(place / table, old, new)
    with pytest.raises(ValueError, match=f"{place}.*{message}"):
        read("celeba", place)


# MetaShift ------------------------------------------------------------------------------------------------------------


def test_metashift_has_five_contexts_sorted_and_leaves_out_the_others(folder):
    place = folder("metashift")
    (place / "test/cat/cat(shelf)/.DS_Store").touch()
    rows = read("metashift", place).rows
    groups = rows.groupby(["split", "y", "attribute"])
    assert groups.size()["train"].to_dict() == {(0, 0): 8, (0, 1): 10, (1, 2): 8, (1, 3): 10}
    assert groups.size()["val"].to_dict() == {(0, 4): 9, (1, 4): 9}
    for (split, y, attribute), part in groups:
        animal, context = metashift.CLASS_NAMES[y], metashift.ATTRIBUTE_NAMES[attribute]
        start = f"{'train' if split == 'train' else 'test'}/{animal}/{animal}({context})/"
        assert part["path"].str.match(re.escape(start) + r"\d+\.jpg$").all()
        assert part["path"].is_monotonic_increasing


def test_metashift_in_its_full_size_has_the_published_counts(tmp_path):
    for place, n in zip(metashift._GROUPS, (231, 380, 145, 367, 235, 306), strict=True):
        (tmp_path / place).mkdir(parents=True)
        for i in range(n):
            os.mknod(tmp_path / place / f"{2_300_000 + 17 * i}.jpg")
    counts.check_counts("metashift", read("metashift", tmp_path))


# Counts ---------------------------------------------------------------------------------------------------------------


def published(name: str) -> Listing:
    """A dataset of the published size."""
    classes, attributes = READERS[name].CLASS_NAMES, READERS[name].ATTRIBUTE_NAMES
    rows = [
        (classes.index(y), attributes.index(a), split)
        for split, groups in counts.PUBLISHED[name].items()
        for (y, a), n in ((group.split(", "), n) for group, n in groups.items())
        for _ in range(n)
    ]
    return Listing(pd.DataFrame(rows, columns=["y", "attribute", "split"]), classes, attributes)


@pytest.mark.parametrize(
    ("name", "totals"),
    [("waterbirds", (4795, 1199, 5794)), ("celeba", (162770, 19867, 19962)), ("metashift", (1123, 81, 460))],
)
def test_the_published_counts_pass_and_sum_to_the_published_totals(name, totals):
    assert tuple(sum(groups.values()) for groups in counts.PUBLISHED[name].values()) == totals
    counts.check_counts(name, published(name))


def test_one_image_more_or_less_or_moved_is_told():
    listing = published("waterbirds")
    rows = listing.rows
    row = int(rows.index[rows["split"] == "val"][0])
    for changed in (
        rows.drop(index=row),
        pd.concat([rows, rows.loc[[row]]]),
        rows.assign(split=rows["split"].where(rows.index != row, "test")),
        rows.assign(attribute=rows["attribute"].astype("Int32").where(rows.index != row)),
    ):
        with pytest.raises(ValueError, match="allow_other_counts: true"):
            counts.check_counts("waterbirds", replace(listing, rows=changed))


def test_the_two_tables_stand_side_by_side():
    listing = published("waterbirds")
    chosen = (listing.rows["split"] == "val") & (listing.rows["y"] == 1) & (listing.rows["attribute"] == 0)
    rows = listing.rows.drop(index=listing.rows.index[chosen][:3])
    with pytest.raises(ValueError, match="waterbirds: the images are not those") as caught:
        counts.check_counts("waterbirds", replace(listing, rows=rows))
    lines = [" ".join(line.split()) for line in str(caught.value).splitlines()]
    assert "expected found" in lines
    assert "waterbird, land 133 130" in lines
    assert "waterbird, water 133 133" in lines


@pytest.mark.parametrize(
    ("train", "test", "passes"),
    [
        ((90, 10, 10, 90), (490,) * 4, True),
        ((91, 9, 10, 90), (490,) * 4, True),  # a matter of rounding
        ((90, 10, 10, 90), (491, 489, 489, 491), False),
        ((95, 5, 5, 95), (490,) * 4, False),
    ],
)
def test_the_test_images_of_dominoes_are_counted_and_the_agreement_of_train(train, test, passes):
    group, split = np.repeat([*range(4)] * 2, [*train, *test]), np.repeat(["train", "test"], [sum(train), sum(test)])
    rows = pd.DataFrame({"y": group // 2, "attribute": group % 2, "split": split})
    refusal = pytest.raises(ValueError, match=r"dominoes: the images are not those.*(?s:.*)automobile, 0 .*9")
    with nullcontext() if passes else refusal:
        counts.check_counts("dominoes", Listing(rows, ("automobile", "truck"), ("0", "1")))

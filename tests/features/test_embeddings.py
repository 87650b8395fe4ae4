from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hsfm.data.transforms import normalize
from hsfm.features.embeddings import (
    Embeddings,
    check_same_origin,
    extract,
    minority_rows,
    read_embeddings,
    write_embeddings,
)
from hsfm.heads.head import Head
from hsfm.models.backbone import build_network
from tests.conftest import planted


@pytest.fixture
def embeddings() -> Embeddings:
    return Embeddings(
        features=torch.randn(5, 4, generator=torch.Generator().manual_seed(0)),
        y=torch.tensor([0, 1, 1, 0, 1]),
        attribute=torch.tensor([0, 1, -1, 1, 0]),
        image_id=("a", "b", "c", "d", "e"),
        class_names=("cat", "dog"),
        attribute_names=("in", "out"),
        dataset="toy",
        split="val",
        checkpoint_sha256="f" * 64,
        details={"backbone": "small_resnet", "transform": {"mean": [0.5]}},
    )


def rewrite(path, change):
    """Change the table of a file that is there, past the writer's own checks."""
    pq.write_table(change(pq.read_table(path)), path)


def test_round_trip(tmp_path, embeddings):
    path = tmp_path / "val.parquet"
    write_embeddings(path, embeddings)
    read = read_embeddings(path)
    for name in ("features", "y", "attribute", "group"):
        assert torch.equal(getattr(read, name), getattr(embeddings, name)), name
    assert read.group.tolist() == [0, 3, -1, 1, 2]
    for name in ("image_id", "class_names", "attribute_names", "dataset", "split", "checkpoint_sha256", "details"):
        assert getattr(read, name) == getattr(embeddings, name), name


def test_the_file_is_what_design_says(tmp_path, embeddings):
    path = tmp_path / "val.parquet"
    write_embeddings(path, embeddings)
    schema = pq.read_schema(path)
    assert [f"{f.name} {f.type}" for f in schema] == [
        "image_id string",
        "y int32",
        "attribute int32",
        "group int32",
        "split string",
        "feature fixed_size_list<element: float>[4]",
    ]
    keys = {"dataset", "split", "backbone", "transform", "d", "class_names", "attribute_names", "checkpoint_sha256"}
    assert keys | {"package_version"} <= {key.decode() for key in schema.metadata}
    assert pq.read_table(path)["attribute"].null_count == 1


def test_a_share_of_a_split_may_lack_a_class_or_have_no_row(tmp_path, embeddings):
    for rows in ([1, 2], []):
        share = embeddings.take(torch.tensor(rows, dtype=torch.int64))
        write_embeddings(tmp_path / "share.parquet", share, whole=False)
        read = read_embeddings(tmp_path / "share.parquet", whole=False)
        assert torch.equal(read.features, share.features)
        assert read.image_id == share.image_id
        with pytest.raises(ValueError, match=r"share.parquet: (class 0 \(cat\) has no image|holds no row)"):
            read_embeddings(tmp_path / "share.parquet")


def test_several_row_groups_read_as_one(tmp_path, embeddings):
    path = tmp_path / "val.parquet"
    write_embeddings(path, embeddings)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=2)
    assert torch.equal(read_embeddings(path).features, embeddings.features)


def test_features_and_logits_do_not_depend_on_the_batch_size():
    network = build_network("small_resnet", 3, seed=0)
    images = torch.randint(0, 256, (23, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    network.train()(normalize(images, [0.5] * 3, [0.5] * 3))  # running statistics that are not the initial ones
    network.eval()

    def features(batch):
        return network.features(normalize(batch, [0.5] * 3, [0.5] * 3))

    whole = torch.cat(list(extract(features, [images])))
    assert whole.shape == (23, 128)
    for size in (1, 7, 22):
        torch.testing.assert_close(torch.cat(list(extract(features, images.split(size)))), whole, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        logits = network(normalize(images, [0.5] * 3, [0.5] * 3))
    head = Head(network.fc.weight.detach(), network.fc.bias.detach())
    torch.testing.assert_close(head.logits(whole), logits, rtol=1e-4, atol=1e-5)


def test_a_batch_without_memory_is_halved_until_it_fits(caplog):
    tried = []

    def features(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch.double()

    rows = torch.arange(40.0).view(20, 2)
    found = list(extract(features, rows.split(11)))
    assert torch.equal(torch.cat(found), rows)
    assert found[0].dtype == torch.float32
    assert tried == [11, 6, 3, 3, 3, 2, 3, 3, 3], "what did not fit is not tried again"
    assert [r.message for r in caplog.records] == [
        "no memory for a batch of 11 images; going on with 6",
        "no memory for a batch of 6 images; going on with 3",
    ]


def test_other_errors_and_a_single_image_that_does_not_fit_are_not_hidden():
    def never(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(torch.OutOfMemoryError):
        list(extract(never, [torch.zeros(4, 2)]))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(extract(broken, [torch.zeros(4, 2)]))
    with pytest.raises(RuntimeError, match="can't allocate memory"):  # the CPU's own words
        list(extract(lambda batch: torch.empty(10**15), [torch.zeros(1, 2)]))
    assert torch.equal(
        torch.cat(list(extract(lambda b: torch.empty(10**15) if len(b) > 2 else b, [torch.ones(5, 2)]))),
        torch.ones(5, 2),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "nan"}, r"row 2 \(image 'c'\) holds a NaN or an infinity"),
        ({"y": torch.tensor([0, 1, 1, 0, 2])}, r"row 4 \(image 'e'\) has y 2; allowed are 0 to 1 \(cat, dog\)"),
        ({"attribute": torch.tensor([0, 1, 2, 0, 0])}, r"row 2 \(image 'c'\) has attribute 2"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"class 1 \(dog\) has no image"),
    ],
)
def test_unsound_embeddings_are_not_written(tmp_path, embeddings, change, message):
    if change.get("features") == "nan":
        features = embeddings.features.clone()
        features[2, 3] = float("nan")
        change = {"features": features}
    with pytest.raises(ValueError, match=f"val.parquet: {message}"):
        write_embeddings(tmp_path / "val.parquet", replace(embeddings, **change))
    assert not list(tmp_path.iterdir())


def test_unsound_files_are_refused(tmp_path, embeddings):
    path = tmp_path / "val.parquet"

    def refuses(change, message):
        write_embeddings(path, embeddings)
        rewrite(path, change)
        with pytest.raises(ValueError, match=f"val.parquet: {message}"):
            read_embeddings(path)

    def with_nan(table):
        features = embeddings.features.clone()
        features[4, 0] = float("nan")
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.flatten().numpy()), 4)
        return table.set_column(5, "feature", column)

    def other_d(table):
        column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.features[:, :3].flatten().numpy()), 3)
        return table.set_column(5, "feature", column)

    def missing_cell(table):
        return table.set_column(
            5, "feature", pa.array([None, *table["feature"].to_pylist()[1:]], table["feature"].type)
        )

    refuses(with_nan, r"row 4 \(image 'e'\) holds a NaN or an infinity")
    refuses(other_d, r"features have length 3, but the metadata say d = 4")
    refuses(missing_cell, "column 'feature' has an empty cell in row 0")
    refuses(lambda t: t.drop_columns(["attribute"]), r"no column 'attribute'; the columns are image_id, y")
    refuses(lambda t: t.set_column(1, "y", pa.array(["0"] * 5)), r"column 'y' holds string, expected int32")
    refuses(
        lambda t: t.set_column(1, "y", pa.array([0, 1, None, 0, 1], pa.int32())),
        r"column 'y' has an empty cell in row 2",
    )
    refuses(lambda t: t.slice(0, 0), "holds no row")
    refuses(lambda t: t.set_column(4, "split", pa.array(["val"] * 4 + ["test"])), "holds the test split, expected val")
    refuses(lambda t: t.set_column(0, "image_id", pa.array(list("abcda"))), "image id 'a' is not unique")
    write_embeddings(path, embeddings)
    assert read_embeddings(path, split="val").split == "val"
    with pytest.raises(ValueError, match=r"val.parquet: holds the val split, expected train"):
        read_embeddings(path, split="train")
    refuses(lambda t: t.replace_schema_metadata({}), "metadata lacks 'dataset'")


def test_splits_of_different_origin_are_told_apart(embeddings):
    check_same_origin(embeddings, replace(embeddings, split="test"))
    with pytest.raises(ValueError, match=r"val and test embeddings differ in checkpoint: f+ and 0+"):
        check_same_origin(embeddings, replace(embeddings, split="test", checkpoint_sha256="0" * 64))
    with pytest.raises(ValueError, match="differ in d: 4 and 3"):
        check_same_origin(embeddings, replace(embeddings, features=embeddings.features[:, :3]))


def test_missing_attributes_are_counted(embeddings):
    with pytest.raises(ValueError, match=r"DFR needs the attribute of every val image; 1 of 5 lack it, first 'c'"):
        embeddings.require_attributes("DFR")


def test_rows_are_taken_in_the_order_given(embeddings):
    taken = embeddings.take(torch.tensor([3, 0, 2]))
    assert taken.image_id == ("d", "a", "c")
    assert torch.equal(taken.features, embeddings.features[[3, 0, 2]])
    assert taken.y.tolist() == [0, 0, 1]
    assert taken.attribute.tolist() == [1, 0, -1]
    assert taken.class_names == embeddings.class_names


def test_minority_is_rarer_in_the_class_than_in_train(splits):
    val = splits["val"]
    assert torch.equal(minority_rows(splits["train"], val), val.y != val.attribute)
    balanced = planted("train", [10, 20, 30, 60], seed=0)
    assert not minority_rows(balanced, val).any(), "equal shares make no minority"

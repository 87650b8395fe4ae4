from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hsfm.features.embeddings import (
    Embeddings,
    check_same_origin,
    joined,
    minority_rows,
    read_embeddings,
    write_embeddings,
)
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


@pytest.fixture
def with_early(embeddings) -> Embeddings:
    """The same with early logits."""
    early_logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    return replace(embeddings, extra={"early_logits": early_logits})


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    for name in ("features", "y", "attribute", "group"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.extra.keys() == expected.extra.keys()
    assert all(torch.equal(found.extra[name], values) for name, values in expected.extra.items())
    for name in ("image_id", "class_names", "attribute_names", "dataset", "split", "checkpoint_sha256", "details"):
        assert getattr(found, name) == getattr(expected, name), name


def test_round_trip(tmp_path, embeddings, with_early):
    for written in (embeddings, with_early):
        path = tmp_path / "val.parquet"
        write_embeddings(path, written)
        assert_same(read_embeddings(path), written)
    assert read_embeddings(path).group.tolist() == [0, 3, -1, 1, 2]
    assert pq.read_table(path)["attribute"].null_count == 1
    assert pq.read_schema(path).names[-2:] == ["feature", "early_logits"]


def test_parts_join_to_the_whole(with_early):
    first, rest = with_early.take(torch.tensor([0])), with_early.take(torch.arange(1, 5))
    assert_same(joined(first, rest), with_early)
    assert not joined(first, replace(rest, extra={})).extra
    assert with_early.to(torch.device("meta")).extra["early_logits"].is_meta


def test_a_share_of_a_split_may_lack_a_class_or_have_no_row(tmp_path, with_early):
    for rows in ([1, 2], []):
        share = with_early.take(torch.tensor(rows, dtype=torch.int64))
        write_embeddings(tmp_path / "share.parquet", share, whole=False)
        read = read_embeddings(tmp_path / "share.parquet", whole=False)
        assert_same(read, share)
        with pytest.raises(ValueError, match=r"share.parquet: (class 0 \(cat\) has no image|holds no row)"):
            read_embeddings(tmp_path / "share.parquet")


def test_several_row_groups_read_as_one(tmp_path, with_early):
    path = tmp_path / "val.parquet"
    write_embeddings(path, with_early)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=2)
    assert_same(read_embeddings(path), with_early)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(5, 4).index_fill(0, torch.tensor(2), torch.nan)}, r"row 2 \(image 'c'\) holds a NaN"),
        (
            {"features": torch.tensor([[1.0] * 4, [3e38] * 4, [torch.inf, -torch.inf, 0, 0]] + [[3e38] * 4] * 2)},
            "row 2",
        ),
        ({"y": torch.tensor([0, 1, 1, 0, 2])}, r"row 4 \(image 'e'\) has y 2; allowed are 0 to 1 \(cat"),
        ({"attribute": torch.tensor([0, 1, 2, 0, 0])}, r"row 2 \(image 'c'\) has attribute 2; allowed are 0 to 1"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"class 1 \(dog\) has no image"),
        ({"extra": {"early_logits": torch.full((5, 2), torch.inf)}}, r"row 0 \(image 'a'\) has .* in early_logits"),
        ({"extra": {"early_logits": torch.zeros(4, 2)}}, r"early_logits is \[4, 2\], expected \[5, 2\], a number per"),
        ({"extra": {"early_logits": torch.zeros(5, 1)}}, r"early_logits is \[5, 1\], expected \[5, 2\], a number per"),
        ({"extra": {"late_logits": torch.zeros(5, 2)}}, r"late_logits is .* under the name early_logits"),
    ],
)
def test_unsound_embeddings_are_not_written(tmp_path, embeddings, change, message):
    with pytest.raises(ValueError, match=f"val.parquet: {message}"):
        write_embeddings(tmp_path / "val.parquet", replace(embeddings, **change))
    assert not list(tmp_path.iterdir())


LIST = pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["attribute"]), r"no column 'attribute'; the columns are image_id, y"),
        (lambda t: t.set_column(1, "y", pa.array(["0"] * 5)), r"column 'y' holds string, expected int32"),
        (
            lambda t: t.set_column(5, "feature", pa.array([[1, 2, 3, 4], [1], None] + [[0] * 7] * 2, LIST)),
            "row 1 has 1 numbers in 'feature', expected 4",
        ),
        (
            lambda t: t.append_column("early_logits", pa.array([[1, 2]] * 4 + [[1]], LIST)),
            "row 4 has 1 numbers in 'early_logits', expected 2",
        ),
        (
            lambda t: t.append_column("early_logits", pa.array(["1, 2"] * 5)),
            "column 'early_logits' holds string, expected",
        ),
        (lambda t: t.slice(0, 0), "holds no row"),
        (lambda t: t.set_column(0, "image_id", pa.array(list("abcda"))), "image id 'a' is not unique"),
        (lambda t: t.replace_schema_metadata({}), "metadata lacks 'dataset'"),
    ],
)
def test_unsound_files_are_refused(tmp_path, embeddings, change, message):
    path = tmp_path / "val.parquet"
    write_embeddings(path, embeddings)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(ValueError, match=f"val.parquet: {message}"):
        read_embeddings(path)


def test_another_split_is_refused(tmp_path, embeddings):
    write_embeddings(tmp_path / "val.parquet", embeddings)
    assert read_embeddings(tmp_path / "val.parquet", split="val").split == "val"
    with pytest.raises(ValueError, match=r"val.parquet: holds the val split, expected train"):
        read_embeddings(tmp_path / "val.parquet", split="train")


def test_splits_of_different_origin_are_told_apart(embeddings):
    check_same_origin(embeddings, replace(embeddings, split="test"))
    with pytest.raises(ValueError, match=r"val and test embeddings differ in checkpoint: f+ and 0+"):
        check_same_origin(embeddings, replace(embeddings, split="test", checkpoint_sha256="0" * 64))
    with pytest.raises(ValueError, match="differ in d: 4 and 3"):
        check_same_origin(embeddings, replace(embeddings, features=embeddings.features[:, :3]))


def test_missing_attributes_are_counted(embeddings):
    with pytest.raises(ValueError, match=r"DFR needs the attribute of every val image; 1 of 5 lack it, first 'c'"):
        embeddings.require_attributes("DFR")


def test_minority_is_rarer_in_the_class_than_in_train(splits):
    val = splits["val"]
    assert torch.equal(minority_rows(splits["train"], val), val.y != val.attribute)
    balanced = planted("train", [10, 20, 30, 60], seed=0)
    assert not minority_rows(balanced, val).any(), "equal shares make no minority"

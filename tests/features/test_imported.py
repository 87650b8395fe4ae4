from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.features.embeddings import write_embeddings
from hsfm.features.imported import import_embeddings

SPLITS = ("train", "val", "test")


def arrays(n=6, d=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(n, d)),
        "y": np.array(["dog", "cat"] * (n // 2)),
        "attribute": np.array(["in", "out", "in"] * (n // 3)),
        **changes,
    }


def write_npz(folder, **of_splits):
    paths = {}
    for seed, split in enumerate(SPLITS):
        paths[split] = folder / f"{split}.npz"
        np.savez(paths[split], **of_splits.get(split, arrays(seed=seed)))
    return paths


def test_npz_with_names(tmp_path):
    splits = import_embeddings(write_npz(tmp_path), "mine")
    train = splits["train"]
    assert train.class_names == ("cat", "dog")
    assert train.attribute_names == ("in", "out")
    assert train.y.tolist() == [1, 0] * 3
    assert train.attribute.tolist() == [0, 1, 0] * 2
    np.testing.assert_allclose(train.features.numpy(), arrays(seed=0)["x"].astype(np.float32))
    assert (train.dataset, train.split) == ("mine", "train")
    assert len({e.checkpoint_sha256 for e in splits.values()}) == 1
    for split, e in splits.items():
        write_embeddings(tmp_path / f"{split}.parquet", e)
    again = import_embeddings({split: tmp_path / f"{split}.parquet" for split in SPLITS}, "mine")
    assert again["val"].image_id == splits["val"].image_id
    assert torch.equal(again["val"].features, splits["val"].features)
    assert again["val"].checkpoint_sha256 == splits["val"].checkpoint_sha256


def test_numbers_are_sorted_by_size_and_minus_one_is_a_class_but_no_attribute(tmp_path):
    of = {
        split: arrays(y=np.array([10, 2, -1] * 2), attribute=np.array([-1, 11, 3] * 2), seed=i)
        for i, split in enumerate(SPLITS)
    }
    train = import_embeddings(write_npz(tmp_path, **of), "mine")["train"]
    assert train.class_names == ("-1", "2", "10")
    assert train.y.tolist() == [2, 1, 0] * 2
    assert train.attribute_names == ("3", "11")
    assert train.attribute.tolist() == [-1, 1, 0] * 2


def test_attributes_may_be_missing_on_one_split_or_in_single_rows(tmp_path):
    of = {"train": {k: v for k, v in arrays().items() if k != "attribute"},
          "val": arrays(attribute=np.array(["in", "", "out"] * 2), seed=1)}  # fmt: skip
    splits = import_embeddings(write_npz(tmp_path, **of), "mine")
    assert splits["train"].attribute.tolist() == [-1] * 6
    assert splits["val"].attribute.tolist() == [0, -1, 1] * 2
    assert splits["test"].attribute_names == ("in", "out")


@pytest.mark.parametrize("kind", ["object", "string"])
def test_parquet_from_elsewhere(tmp_path, kind):
    paths = {}
    for seed, split in enumerate(SPLITS):
        a = arrays(seed=seed)
        paths[split] = tmp_path / f"{split}.parquet"
        attribute = pd.array([None, *a["attribute"][1:]], dtype=kind)
        frame = pd.DataFrame({"feature": list(a["x"]), "y": a["y"], "attribute": attribute})
        frame.assign(image_id=[f"{split}{i}" for i in range(6)]).to_parquet(paths[split])
    val = import_embeddings(paths, "mine")["val"]
    assert val.image_id[2] == "val2"
    assert val.attribute.tolist() == [-1, 1, 0, 0, 1, 0]
    np.testing.assert_allclose(val.features.numpy(), arrays(seed=1)["x"].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((5, 3))}, r"features are float64 \[5, 3\], expected numbers \[n d\] for the 6 rows of y"),
        ({"x": np.array([["a"]] * 6)}, r"features are <U1 \[6, 1\], expected numbers"),
        ({"x": np.full((6, 3), np.nan)}, r"row 0 \(image 'val-0000000'\) holds a NaN or an infinity"),
        ({"attribute": np.zeros(4)}, r"attribute \[4\] is not \[6\]"),
        ({"x": np.zeros((6, 4))}, r"train and val embeddings differ in d: 3 and 4"),
        ({"y": np.array(["dog"] * 6)}, r"class 0 \(cat\) has no image"),
        ({"y": np.array([1.0, np.nan] * 3)}, "val.npz: row 1 has no class"),
        ({"y": np.array([None, "a"], dtype=object)}, "val.npz: .*allow_pickle"),
        ({"y": np.array("dog")}, r"features are float64 \[6, 3\], expected numbers \[n d\] for the 1 rows of y"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, message):
    paths = write_npz(tmp_path, val=arrays(**change))
    with pytest.raises(ValueError, match=message):
        import_embeddings(paths, "mine")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [1]}, "no 'feature'; there are y"),
        ({"y": [1, 0], "feature": [[1.0], [1.0, 2.0]]}, "all input arrays must have the same shape"),
        ({"y": [], "feature": []}, "need at least one array"),
        (
            {"y": pd.to_datetime(["2020-01-01", "2020-01-02"]), "feature": [[1.0], [2.0]]},
            "row 0 has y Timestamp.*, expected a text or a number",
        ),
        (
            {"y": [1, 0], "feature": [[1.0], [2.0]], "attribute": [None, [1, 2]]},
            r"row 1 has attribute array\(\[1, 2\]\), expected a text or a number",
        ),
    ],
)
def test_odd_tables_are_named(tmp_path, columns, message):
    pd.DataFrame(columns).to_parquet(tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match=f"odd.parquet: {message}"):
        import_embeddings({**write_npz(tmp_path), "val": tmp_path / "odd.parquet"}, "mine")


def test_files_of_another_kind_are_named(tmp_path):
    paths = write_npz(tmp_path)
    np.savez(tmp_path / "bare.npz", features=np.zeros((2, 2)))
    (tmp_path / "text.csv").write_text("y\n")
    (tmp_path / "torn.npz").write_bytes(paths["val"].read_bytes()[:100])
    for name, message in (
        ("bare.npz", "no 'x'; there are features"),
        ("text.csv", "is neither .parquet nor .npz"),
        ("torn.npz", "File is not a zip file"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            import_embeddings({**paths, "val": tmp_path / name}, "mine")


def test_embeddings_of_the_workflow_get_the_datasets_name_and_must_agree_on_attributes(tmp_path):
    splits = import_embeddings(write_npz(tmp_path), "mine")
    for split, e in splits.items():
        write_embeddings(tmp_path / f"{split}.parquet", e)
    paths = {split: tmp_path / f"{split}.parquet" for split in SPLITS}
    assert {e.dataset for e in import_embeddings(paths, "again").values()} == {"again"}
    turned = replace(splits["val"], attribute_names=("out", "in"))
    write_embeddings(tmp_path / "val.parquet", turned)
    with pytest.raises(ValueError, match=r"train and val embeddings differ in attributes: \('in', 'out'\) and"):
        import_embeddings(paths, "again")


def test_one_file_for_two_splits_is_named(tmp_path):
    paths = write_npz(tmp_path)
    with pytest.raises(ValueError, match=r"train.npz: the test split is the same file as train"):
        import_embeddings({**paths, "test": paths["train"]}, "mine")

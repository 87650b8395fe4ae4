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


def test_files_of_hsfm_stand_beside_others(tmp_path):
    """Their classes and names hold, in their order; other files have them by name or by number."""
    splits = import_embeddings(write_npz(tmp_path), "mine")
    names = {"class_names": ("dog", "cat"), "attribute_names": ("out", "in")}
    swapped = replace(splits["train"], y=1 - splits["train"].y, attribute=1 - splits["train"].attribute, **names)
    write_embeddings(tmp_path / "train.parquet", swapped)
    numbers = arrays(seed=2, y=np.array([0, 1] * 3), attribute=np.array([1, -1, 0] * 2))
    np.savez(tmp_path / "numbers.npz", **numbers)
    paths = {"train": tmp_path / "train.parquet", "val": tmp_path / "val.npz", "test": tmp_path / "numbers.npz"}
    found = import_embeddings(paths, "mine")
    for one in found.values():
        assert (one.class_names, one.attribute_names) == (("dog", "cat"), ("out", "in"))
        assert one.y.tolist() == [0, 1] * 3
    assert found["val"].attribute.tolist() == [1, 0, 1] * 2
    assert found["test"].attribute.tolist() == [1, -1, 0] * 2
    assert len({one.checkpoint_sha256 for one in found.values()}) == 1
    np.savez(tmp_path / "numbers.npz", **arrays(seed=2, y=np.array(["dog", "cow"] * 3)))
    with pytest.raises(ValueError, match=r"numbers.npz: y: row 1 has 'cow', expected dog, cat, or a number of one"):
        import_embeddings(paths, "mine")


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


def of_splits(**changes):
    return {split: arrays(seed=seed, **changes) for seed, split in enumerate(SPLITS)}


@pytest.mark.parametrize(
    ("attribute", "names", "codes", "warning"),
    [
        (np.array([-1, 1] * 3), ("-1", "1"), [0, 1] * 3, "holds -1 and 1 alone, so -1 is taken for a value"),
        (np.array([-1.0, 0] * 3), ("0",), [-1, 0] * 3, "-1 is taken for unknown, in 9 of 18 rows"),
        (np.array([-1] * 6), (), [-1] * 6, "-1 is taken for unknown, in 18 of 18 rows"),
        (np.array(["land", np.nan] * 3), ("land",), [0, -1] * 3, ""),
        (np.array([" land", "land "] * 3), ("land",), [0, 0] * 3, ""),
        (np.array(["Land", "land"] * 3), ("Land", "land"), [0, 1] * 3, "count as different: 'Land' and 'land'"),
        (np.array(["None", "land"] * 3), ("None", "land"), [0, 1] * 3, "None is a label like any other"),
    ],
)
def test_attributes_mean_what_they_do_in_a_table_of_images(tmp_path, caplog, attribute, names, codes, warning):
    train = import_embeddings(write_npz(tmp_path, **of_splits(attribute=attribute)), "mine")["train"]
    assert (train.attribute_names, train.attribute.tolist()) == (names, codes)
    assert warning in caplog.text if warning else not caplog.text


def test_labels_of_one_value_are_one_label(tmp_path):
    of = {
        "train": arrays(y=np.array([1, 0] * 3)),
        "val": arrays(y=np.array(["1", "0"] * 3), seed=1),
        "test": arrays(y=np.array([1.0, 0.0] * 3), seed=2),
    }
    splits = import_embeddings(write_npz(tmp_path, **of), "mine")
    assert all((e.class_names, e.y.tolist()) == (("0", "1"), [1, 0] * 3) for e in splits.values())


def test_labels_are_compared_in_one_unicode_form(tmp_path):
    of = of_splits(y=np.array(["caf\u00e9", "dog"] * 3)) | {
        "val": arrays(y=np.array(["cafe\u0301", "dog"] * 3), seed=1)
    }
    assert import_embeddings(write_npz(tmp_path, **of), "mine")["val"].y.tolist() == [0, 1] * 3


@pytest.mark.parametrize("column", ["y", "attribute"])
def test_a_column_of_single_values_is_refused(tmp_path, column):
    of = {split: arrays(n=12, seed=seed, **{column: np.arange(12) / 7 + 9 * seed}) for seed, split in enumerate(SPLITS)}
    with pytest.raises(ValueError, match=f"{column} of .*train.npz, .*: 36 of its 36 values occur once, such as"):
        import_embeddings(write_npz(tmp_path, **of), "mine")


def test_the_case_of_an_ending_is_harmless(tmp_path):
    paths = write_npz(tmp_path)
    capitals = {split: path.rename(tmp_path / f"{split.upper()}.NPZ") for split, path in paths.items()}
    assert import_embeddings(capitals, "mine")["val"].class_names == ("cat", "dog")


def test_arrays_that_are_not_read_are_named(tmp_path, caplog):
    paths = write_npz(tmp_path, val=arrays(group=np.arange(6), files=np.array([None] * 6)))
    import_embeddings(paths, "mine")
    assert f"{paths['val']}: not read: group, files; the names are x, y, attribute, image_id" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": np.zeros((6, 3))}, "both 'x' and 'feature' may be the features; one is read"),
        ({"X": np.zeros((6, 3))}, "both 'x' and 'X' may be the features"),
        ({"Attribute": np.zeros(6)}, "both 'attribute' and 'Attribute' may be the attribute"),
        (
            {"attribute": None, "a": np.zeros(6)},
            "no 'attribute'; there are x, y, a; rename 'a' if it is that, or leave",
        ),
        (
            {"attribute": None, "groups": np.zeros(6)},
            "no 'attribute'; .*; rename 'groups' if it is that, or leave it ou",
        ),
        ({"y": None, "label": np.zeros(6)}, "no 'y'; there are x, attribute, label; rename 'label' if it is that$"),
        ({"x": None, "Embeddings": np.zeros((6, 3))}, "no 'x'; .*; rename 'Embeddings' if it is that$"),
        ({"image_ids": np.arange(6)}, "no 'image_id'; .*; rename 'image_ids' if it is that, or leave it out"),
    ],
)
def test_arrays_under_another_name_or_there_twice_are_refused(tmp_path, change, message):
    val = {name: array for name, array in arrays(**change).items() if array is not None}
    with pytest.raises(ValueError, match=f"val.npz: {message}"):
        import_embeddings(write_npz(tmp_path, val=val), "mine")


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_early_logits_of_a_network_come_along(tmp_path, form):
    paths, early_logits = write_npz(tmp_path), np.random.default_rng(9).normal(size=(6, 2))
    val = arrays(seed=1, early_logits=early_logits, index=np.arange(6))
    if form == "npz":
        np.savez(paths["val"], **val)
    else:
        paths["val"] = tmp_path / "val.parquet"
        lists = {"feature": list(val.pop("x")), "early_logits": list(val.pop("early_logits"))}
        pd.DataFrame({**val, **lists}).to_parquet(paths["val"])
    splits = import_embeddings(paths, "mine")
    np.testing.assert_array_equal(splits["val"].extra["early_logits"].numpy(), early_logits.astype(np.float32))
    assert not splits["train"].extra
    for split, e in splits.items():
        write_embeddings(tmp_path / f"{split}.parquet", e)
    again = import_embeddings({split: tmp_path / f"{split}.parquet" for split in SPLITS}, "mine")["val"]
    assert torch.equal(again.extra["early_logits"], splits["val"].extra["early_logits"])


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
        (
            {"early_logits": np.zeros((4, 2))},
            r"early_logits are float64 \[4, 2\], expected numbers \[n c\] for",
        ),
        ({"early_logits": np.zeros((6, 1))}, r"early_logits is \[6, 1\], expected \[6, 2\], a number per image"),
        ({"attribute": np.zeros(4)}, r"attribute \[4\] is not \[6\]"),
        ({"x": np.zeros((6, 4))}, r"train and val embeddings differ in d: 3 and 4"),
        ({"y": np.array(["dog"] * 6)}, r"class 0 \(cat\) has no image"),
        ({"y": np.array([1.0, np.nan] * 3)}, "val.npz: row 1 has no class"),
        ({"y": np.array([None, "a"], dtype=object)}, r"val.npz: y: .*allow_pickle.*; save texts as y.astype\(str\)"),
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
    with pytest.raises(ValueError, match=r"train and val embeddings differ in attributes: \(in, out\) and"):
        import_embeddings(paths, "again")


def test_one_file_for_two_splits_is_named(tmp_path):
    paths = write_npz(tmp_path)
    with pytest.raises(ValueError, match=r"train.npz: the test split is the same file as train"):
        import_embeddings({**paths, "test": paths["train"]}, "mine")


def test_several_attributes_are_one_of_their_cells(tmp_path):
    several = {
        "attribute_place": np.array(["in", "out", "in"] * 2),
        "attribute_size": np.array([2, 1, 1, 2, np.nan, 1]),
    }
    bare = {name: values for name, values in arrays().items() if name != "attribute"}
    of = {split: {**bare, "x": arrays(seed=seed)["x"], **several} for seed, split in enumerate(SPLITS)}
    splits = import_embeddings(write_npz(tmp_path, **of | {"train": bare}), "mine")
    val = splits["val"]
    assert val.attribute_names == ("place in, size 1", "place in, size 2", "place out, size 1")
    assert val.attribute.tolist() == [1, 2, 0, 1, -1, 0]
    assert val.cells == {"place": ("in", "in", "out"), "size": ("1", "2", "1")}
    groups = [(group.tolist(), n) for group, n in val.value_groups]
    assert groups == [([2, 1, 2, 0, -1, 0], 4), ([3, 0, 2, 1, -1, 0], 4)]
    assert splits["train"].attribute.tolist() == [-1] * 6, "without attributes they are unknown"
    columns = np.stack([several["attribute_place"], several["attribute_size"].astype(str)], axis=1)
    two = {split: {**of[split], "attribute": columns} for split in SPLITS}
    for arrays_of in two.values():
        del arrays_of["attribute_place"], arrays_of["attribute_size"]
    found = import_embeddings(write_npz(tmp_path, **two), "mine")["val"]
    assert found.attribute.tolist() == val.attribute.tolist()
    assert list(found.cells) == ["1", "2"]


def test_attributes_that_do_not_go_together_are_refused(tmp_path):
    of = of_splits()
    of["val"] = {**of["val"], "attribute_size": np.arange(6) % 2}
    with pytest.raises(ValueError, match=r"val\.npz: both 'attribute' and 'attribute_size'; leave one out"):
        import_embeddings(write_npz(tmp_path, **of), "mine")
    del of["val"]["attribute"]
    with pytest.raises(ValueError, match=r"val\.npz: has attribute_size, but another split has attribute"):
        import_embeddings(write_npz(tmp_path, **of), "mine")

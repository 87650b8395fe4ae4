from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from hsfm.data.table import SPLITS
from hsfm.evaluation.scores import read_all_scores, score, score_heads, write_scores
from hsfm.heads.head import Head, SavedHeads, stack


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y, attribute = rng.integers(0, 3, 200), rng.integers(0, 2, 200)
    predictions = np.where(rng.random((4, 200)) < 0.7, y, rng.integers(0, 3, (4, 200)))
    return predictions, y, attribute


def test_rows_are_scikit_learns_accuracies(data):
    predictions, y, attribute = data
    frame = score(
        predictions, y, attribute, seeds=[3, 4, 5, 6], class_names=("a", "b", "c"), attribute_names=("x", "y")
    )
    assert len(frame) == 4 * 6
    for s, seed in enumerate([3, 4, 5, 6]):
        part = frame[frame["seed"] == seed]
        assert part["n"].sum() == 200
        assert part["group"].tolist() == list(range(6))
        assert part["group_name"].tolist()[:2] == ["a, x", "a, y"]
        for row in part.itertuples():
            members = (y == row.y) & (attribute == row.attribute)
            assert row.n == members.sum()
            assert row.accuracy == accuracy_score(y[members], predictions[s][members])


def test_empty_groups_and_unknown_attributes_are_kept():
    y, attribute = np.array([0, 0, 1]), np.array([0, -1, 1])
    frame = score(
        np.array([[0, 1, 1]]), y, attribute, seeds=[0], class_names=("a", "b"), attribute_names=("x", "y")
    ).set_index("group_name")
    assert frame["n"].to_dict() == {"a, x": 1, "a, y": 0, "a, unknown": 1, "b, x": 0, "b, y": 1}
    assert frame["accuracy"].isna().tolist() == [False, True, False, True, False]
    assert frame["group"].isna().tolist() == [False, False, True, False, False]


@pytest.fixture
def complete(data) -> pd.DataFrame:
    parts = [
        score(*data, seeds=[0, 1, 2, 3], class_names=("a", "b", "c"), attribute_names=("x", "y")).assign(split=split)
        for split in ("train", "val", "test")
    ]
    return pd.concat(parts, ignore_index=True).assign(
        dataset="toy", run=0, method="hsfm", group_labels="none", chosen_by="nothing", remark=""
    )


def test_scores_of_a_file_of_heads(splits, erm_head):
    saved = SavedHeads(
        head=stack([erm_head, Head(-erm_head.weight, -erm_head.bias)]), method="hsfm", seeds=(3, 5),
        class_names=splits["val"].class_names, checkpoint_sha256="a" * 64, group_labels="selection", chosen_by="a rule",
        remarks=("", "hardly moved"),
    )  # fmt: skip
    found = score_heads(saved, [splits[split] for split in SPLITS], run=4)
    assert found[["run", "method", "group_labels", "chosen_by"]].drop_duplicates().to_numpy().tolist() == [
        [4, "hsfm", "selection", "a rule"]
    ]
    assert found.groupby("seed")["remark"].unique().map(list).to_dict() == {3: [""], 5: ["hardly moved"]}
    hits = found.groupby(["split", "seed"])[["correct", "n"]].sum()
    for split in SPLITS:
        right = int((erm_head.predict(splits[split].features) == splits[split].y).sum())
        assert hits.loc[(split, 3)].tolist() == [right, len(splits[split].y)]
        assert hits.loc[(split, 5), "correct"] == len(splits[split].y) - right, "the opposite of two classes"
    without = score_heads(replace(saved, remarks=()), [splits["val"]], run=0)
    assert (without["remark"] == "").all()


def test_several_files_come_back_one_after_the_other(tmp_path, complete):
    paths = [tmp_path / f"{run}.parquet" for run in range(2)]
    for run, path in enumerate(paths):
        write_scores(path, complete.assign(run=run), {"checkpoint_sha256": "0" * 64})
    found = read_all_scores(paths)
    expected = pd.concat([complete.assign(run=run, file=str(path)) for run, path in enumerate(paths)])
    pd.testing.assert_frame_equal(found[expected.columns], expected.reset_index(drop=True), check_dtype=False)

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score

from hsfm.data.table import SPLITS
from hsfm.evaluation.scores import BY_RULE, read_all_scores, read_left_out, score, score_heads, write_scores
from hsfm.heads.head import SavedHeads, stack


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


def test_scores_of_a_file_of_heads(splits, erm_head, opposites):
    found = score_heads(opposites, [splits[split] for split in SPLITS], run=4)
    assert found[["run", "method", "group_labels", "chosen_by"]].drop_duplicates().to_numpy().tolist() == [
        [4, "hsfm", "selection", "a rule"]
    ]
    assert found.groupby("seed")["remark"].unique().map(list).to_dict() == {3: [""], 5: ["hardly moved"]}
    hits = found.groupby(["split", "seed"])[["correct", "n"]].sum()
    for split in SPLITS:
        right = int((erm_head.predict(splits[split].features) == splits[split].y).sum())
        assert hits.loc[(split, 3)].tolist() == [right, len(splits[split].y)]
        assert hits.loc[(split, 5), "correct"] == len(splits[split].y) - right
    assert "held_out" not in set(found["split"])
    val, held_out = splits["val"], torch.full((2, len(splits["val"].y)), -1, dtype=torch.int16)
    held_out[0, ::2], held_out[1, 1::4] = 1, val.y[1::4].short()
    own = score_heads(replace(opposites, held_out=held_out), [splits["train"], val], run=0)
    own = own[own["split"] == "held_out"]
    assert own["n"].sum() == (held_out >= 0).sum()
    assert own["correct"].sum() == int((val.y[::2] == 1).sum()) + len(val.y[1::4])
    assert (own["seed"] == 3).all()
    without = score_heads(replace(opposites, remarks=()), [splits["val"]], run=0)
    assert (without["remark"] == "").all()


def test_several_files_come_back_one_after_the_other(tmp_path, splits, opposites):
    frames = {str(tmp_path / f"{run}.parquet"): score_heads(opposites, [splits["val"]], run=run) for run in range(2)}
    for path, frame in frames.items():
        write_scores(path, frame, {"checkpoint_sha256": "0" * 64})
    found = read_all_scores(frames)
    expected = pd.concat([frame.assign(file=path) for path, frame in frames.items()], ignore_index=True)
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)


def test_a_method_without_heads_leaves_a_file_that_says_why(splits, erm_head, tmp_path):
    saved = SavedHeads(
        stack([erm_head])[:0], "dfr", (), ("class 0", "class 1"), "a" * 64, "none", "", left_out="no rain"
    )
    scores = score_heads(saved, list(splits.values()), 0)
    said = {"dataset": "planted", "method": "dfr", "reason": "no rain"}
    write_scores(tmp_path / "dfr.parquet", scores, {"left_out": said})
    whole = score_heads(replace(saved, head=stack([erm_head]), seeds=(4,)), list(splits.values()), 0)
    write_scores(tmp_path / "erm.parquet", whole, {})
    paths = [tmp_path / "dfr.parquet", tmp_path / "erm.parquet"]
    assert read_left_out(paths).to_dict("records") == [said]
    pd.testing.assert_frame_equal(read_all_scores(paths), read_all_scores(paths[1:]))


def test_scores_by_rule_come_back(tmp_path, splits, opposites):
    found = score_heads(opposites, [splits["test"]], run=0).assign(rule="average")
    write_scores(tmp_path / "scores.parquet", found, {}, BY_RULE)
    assert set(read_all_scores([tmp_path / "scores.parquet"], BY_RULE)["rule"]) == {"average"}
    write_scores(tmp_path / "none.parquet", pd.DataFrame(columns=BY_RULE.names), {}, BY_RULE)
    assert read_all_scores([tmp_path / "none.parquet"], BY_RULE).empty
    write_scores(tmp_path / "scores.parquet", found, {})
    with pytest.raises(ValueError, match="no column 'rule'"):
        read_all_scores([tmp_path / "scores.parquet"], BY_RULE)

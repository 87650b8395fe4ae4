import numpy as np
import pandas as pd
import pytest

from hsfm.evaluation.scores import score
from hsfm.evaluation.validation_groups import validation_groups, worst_by_run

NAMES = {"class_names": ("a", "b"), "attribute_names": ("x", "y")}


def labels(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    group = np.repeat(np.arange(4), counts)
    return group // 2, group % 2


def scores_of(train, val, *, run=0) -> pd.DataFrame:
    parts = []
    for split, (y, attribute) in (("train", train), ("val", val)):
        wrong = np.arange(len(y)) < 1 + run  # as many of the first group
        parts.append(score(np.where(wrong, 1 - y, y)[None], y, attribute, seeds=[0], **NAMES).assign(split=split))
    return pd.concat(parts, ignore_index=True).assign(run=run, method="erm")


def test_groups_of_validation_and_which_are_minority_in_train():
    found = validation_groups(
        pd.concat([scores_of(labels([30, 5, 2, 20]), labels([4, 0, 3, 2]), run=run) for run in (0, 1)])
    )
    assert found["group_name"].tolist() == ["a, x", "b, x", "b, y"]
    assert found["n"].tolist() == [4, 3, 2]
    assert found["minority"].tolist() == [False, True, False]


def test_an_unknown_attribute_of_train_leaves_open_what_is_minority():
    y, attribute = labels([30, 5, 2, 20])
    attribute[0] = -1
    found = validation_groups(scores_of((y, attribute), labels([4, 1, 3, 2])))
    assert found["minority"].tolist() == [None] * 4
    y, attribute = labels([4, 1, 3, 2])
    attribute[:4] = -1
    found = validation_groups(scores_of(labels([30, 5, 2, 20]), (y, attribute)))
    assert found["group_name"].tolist() == ["a, unknown", "a, y", "b, x", "b, y"]
    assert found["minority"].tolist() == [None, True, True, False]


def test_worst_group_of_each_run():
    both = pd.concat([scores_of(labels([5] * 4), labels([4, 0, 3, 2]), run=run) for run in (0, 1)])
    other = both.assign(method="hsfm", accuracy=0.0)
    assert worst_by_run(pd.concat([other, both]), "erm") == {0: pytest.approx(3 / 4), 1: pytest.approx(2 / 4)}

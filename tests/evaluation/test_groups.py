from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.evaluation.groups import count_groups, validation_groups, worst_by_run
from hsfm.evaluation.scores import score
from hsfm.heads.hard_set import build
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm
from tests.methods.small import settings_of


@pytest.fixture
def known(splits):
    """Validation of which every fifth attribute is unknown."""
    val = splits["val"]
    return replace(val, attribute=val.attribute.masked_fill(torch.arange(len(val.y)) % 5 == 0, -1))


def test_counts_are_plain_counts(known):
    rows = np.random.default_rng(0).integers(0, len(known.y), size=(2, 3, 40))
    frame = count_groups(rows, (4, 1), known)
    assert list(frame.columns) == ["seed", "epoch", "y", "attribute", "n"]
    assert frame.dtypes[["y", "attribute", "n"]].astype(str).tolist() == ["int64", "Int64", "int64"]
    assert frame["seed"].drop_duplicates().tolist() == [4, 1]
    for s, seed in enumerate((4, 1)):
        for epoch in (1, 2, 3):
            drawn = rows[s, epoch - 1]
            expected = Counter(zip(known.y[drawn].tolist(), known.attribute[drawn].tolist(), strict=True))
            part = frame[(frame["seed"] == seed) & (frame["epoch"] == epoch)]
            found = {(row.y, -1 if pd.isna(row.attribute) else row.attribute): row.n for row in part.itertuples()}
            assert found == {(y, a): expected[y, a] for y in (0, 1) for a in (0, 1, -1)}


def test_pairs_are_those_that_validation_has(splits):
    val = splits["val"]
    rows = torch.where(val.y == 0)[0][None, None, :5].numpy()
    frame = count_groups(rows, (0,), val)
    assert frame[["y", "attribute"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert frame["n"].sum() == 5
    blind = count_groups(rows, (0,), val.without_attributes())
    assert blind["attribute"].isna().all()
    assert blind["n"].tolist() == [5, 0]


def test_hsfms_first_hard_set_is_counted_from_the_rows_of_its_fit(splits, erm_head, known):
    hard_set = build(erm_head, known, per_class=30)
    settings = settings_of("hsfm", select_by="worst_class")
    fit, _ = fit_supervised(
        hsfm, splits["train"], known, erm_head, settings=settings, seeds=(4, 1), hard_set=hard_set
    )  # fmt: skip
    frame = count_groups(fit.arrays["hard_rows"], fit.seeds, known)
    assert frame.groupby(["seed", "epoch", "y"])["n"].sum().tolist() == [30] * 16
    first = frame[(frame["seed"] == 4) & (frame["epoch"] == 1)]
    chosen = hard_set.chosen
    pairs = list(zip(known.y[chosen].tolist(), known.attribute[chosen].tolist(), strict=True))
    assert first["n"].tolist() == [pairs.count((y, a)) for y in (0, 1) for a in (0, 1, -1)]


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

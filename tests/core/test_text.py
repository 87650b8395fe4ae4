"""Main numbers in words."""

import pandas as pd
import pytest

from hsfm.core.text import by_split, duration, kept_epochs, on_test, percent, strengths


@pytest.mark.parametrize(
    ("shares", "text"),
    [([0.924], "92.4"), ([0.9, 0.92], "91.0 ± 1.4"), ([0.9, float("nan")], "unknown"), ([], "unknown")],
)
def test_percent(shares, text):
    assert percent(shares) == text


def history(worst_group: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"seed": [0, 0, 1, 1], "epoch": [1, 2, 1, 2], "kept": [False, True, True, False],
         "val_worst_group": worst_group, "val_worst_class": [0.5, 0.6, 0.7, 0.8]}
    )  # fmt: skip


def test_the_kept_epochs_of_all_seeds():
    assert kept_epochs(history([0.1, 0.9, 0.92, 0.3])) == "validation worst group 91.0 ± 1.4 (epochs 2, 1)"
    assert kept_epochs(history([float("nan")] * 4)) == "validation worst class 65.0 ± 7.1 (epochs 2, 1)"
    assert kept_epochs(history([0.1, 0.9, 0.92, 0.3]).head(2)) == "validation worst group 90.0 (epoch 2)"
    assert kept_epochs(history([0.1] * 4).head(1)) == "no epoch kept"


def scores() -> pd.DataFrame:
    rows = [
        (seed, split, group, n, correct, correct / n if n else None)
        for seed in (0, 1)
        for split in ("val", "test")
        for group, n, correct in ((0, 100, 90), (1, 10, 5 + seed), (2, 0, 0))
    ]
    return pd.DataFrame(rows, columns=["seed", "split", "group", "n", "correct", "accuracy"]).astype({"group": "Int32"})


def test_test_scores_are_over_seeds_and_all_images():
    # averages 95/110 and 96/110
    assert on_test(scores()) == "test worst group 55.0 ± 7.1, average 86.8 ± 0.6"
    unknown = scores()
    unknown.loc[unknown["group"] == 1, "group"] = pd.NA
    assert on_test(unknown).startswith("test worst group unknown, average 86.8")


def test_images_by_split():
    assert by_split({"train": 4000, "val": 400, "test": 400}) == "4,800 images (train 4,000, val 400, test 400)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (8.44, "8.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "59 min 59 s"),
        (7380, "2 h 3 min"), (371000, "4 d 7 h"), (-65, "-1 min 5 s"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_strengths_that_agree_are_said_once():
    assert strengths([0.1, 0.1]) == "C 0.1"
    assert strengths([0.1, 0.03, 0.1]) == "C 0.1, 0.03, 0.1"

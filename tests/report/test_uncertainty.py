import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hsfm.core.bootstrap import difference_interval, interval, resample
from hsfm.evaluation.predictions import Predictions
from hsfm.evaluation.scores import score
from hsfm.report import tables
from hsfm.report.uncertainty import measure, uncertainty_table

SIZES = (300, 300, 60, 60)
TRAIN = (70, 10, 10, 110)


def method(name, labels, rates, *, seeds=(0,), run=0, dataset="toy", unknown=False) -> tuple[Predictions, pd.DataFrame]:
    """Predictions and scores of a method. rates: by seed, the accuracy of each of four groups.

    What is hard is hard for all: a head is right on the easiest images of a group.
    """
    group = np.repeat(np.arange(4), SIZES)
    y, attribute = group // 2, np.full(len(group), -1) if unknown else group % 2
    ease = np.concatenate([np.arange(n) / n for n in SIZES])
    right = np.stack([ease < np.array(rate)[group] for rate in rates])
    predicted = np.where(right, y, 1 - y)
    names = {"class_names": ["a", "b"], "attribute_names": ["x", "y"], "seeds": list(seeds)}
    frames = [score(predicted, y, attribute, **names).assign(split="test")]
    for split in ("train", "val"):
        labels_there = np.repeat(np.arange(4), TRAIN)
        perfect = np.repeat((labels_there // 2)[None], len(seeds), axis=0)
        there = np.full(len(labels_there), -1) if unknown else labels_there % 2
        frames.append(score(perfect, labels_there // 2, there, **names).assign(split=split))
    scores = pd.concat(frames).assign(
        dataset=dataset, run=run, method=name, group_labels=labels, chosen_by="", remark="",
        file=f"results/{dataset}/run{run}/{name}/predictions.parquet",
    )  # fmt: skip
    predictions = Predictions(
        dataset=dataset, run=run, method=name, seeds=seeds,
        image_id=tuple(str(i) for i in range(len(y))), y=y, attribute=attribute,
        group=np.where(attribute < 0, -1, group), predicted=predicted.T, checkpoint_sha256="c0ffee",
    )  # fmt: skip
    return predictions, scores


def together(*parts) -> tuple[list[Predictions], pd.DataFrame]:
    return [p for p, _ in parts], pd.concat([s for _, s in parts], ignore_index=True)


@pytest.fixture
def four():
    return together(
        method("erm", "none", [(1.0, 0.9, 0.5, 1.0)]),
        method("dfr", "training", [(0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 0.9, 0.95)], seeds=(0, 1)),
        method("dac", "selection", [(0.95, 0.85, 0.8, 0.95), (0.95, 0.85, 0.7, 0.95)], seeds=(0, 1)),
        method("hsfm", "selection", [(0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 0.85, 0.9)], seeds=(0, 1)),
    )


def test_intervals_hold_the_means_of_the_tables(four):
    predictions, scores = four
    joined = tables.aggregate(tables.summarize(scores)).merge(measure(predictions, scores), on=["dataset", "method"])
    assert joined["method"].tolist() == ["erm", "dfr", "dac", "hsfm"]
    for metric in tables.METRICS:
        value = joined[f"{metric}_percent"]
        assert (joined[f"{metric}_low"] <= value).all()
        assert (value <= joined[f"{metric}_high"]).all()
        best = value.max()
        assert joined[f"{metric}_to_best"].tolist() == pytest.approx((value - best).tolist())
        assert joined[f"{metric}_to_erm"].tolist() == pytest.approx((value - value[0]).tolist())


def test_by_hand(four):
    """One head: the interval of its worst group and of its average, straight from the bootstrap."""
    predictions, scores = four
    row = measure(predictions, scores).set_index("method").loc["erm"]
    correct = np.concatenate([p.correct for p in predictions], axis=1)
    group = np.repeat(np.arange(4), SIZES)
    draws = resample(correct, group)
    assert [row["worst_group_low"], row["worst_group_high"]] == pytest.approx(100 * interval(draws[:, 2, 0]))
    mean = draws @ np.eye(7)[0] @ (np.array(SIZES) / sum(SIZES))
    assert [row["average_low"], row["average_high"]] == pytest.approx(100 * interval(mean))
    dfr = draws[:, :, 1:3].min(1).mean(1)
    gap = draws[:, :, 0].min(1) - dfr
    assert [row["worst_group_to_best_low"], row["worst_group_to_best_high"]] == pytest.approx(
        100 * difference_interval(gap, 0.5 - 0.9)
    )


def test_what_is_not_told_apart_is_best_too(four):
    found = measure(*four).set_index("method")
    # 2.5 points are one and a half of 60 images
    assert found["worst_group_best"].to_dict() == {"erm": False, "dfr": True, "dac": False, "hsfm": True}
    assert found["worst_group_best_of_block"].to_dict() == {"erm": True, "dfr": True, "dac": False, "hsfm": True}
    rows = tables.in_blocks(tables.aggregate(tables.summarize(four[1])))
    table = uncertainty_table(rows.merge(found.reset_index(), on=["dataset", "method"]), four[1])
    assert [row[2].markdown() for row in table.rows] == [
        "**50.0**", "75.0 ± 7.1", "**<u>87.5 ± 3.5</u>**", "**<u>90.0 ± 0.0</u>**"
    ]  # fmt: skip
    assert [row[4].text[:4] for row in table.rows] == ["-", "-12.", "-", "-"]
    assert [row[5].text[:4] for row in table.rows] == ["-40.", "-15.", "-2.5", "-"]
    assert table.rows[0][6].text == "-"
    assert table.made_from[2] == ("results/toy/run0/hsfm/predictions.parquet",)
    assert table.parted == (1, 3)


def test_a_part_of_the_methods_is_compared_as_if_there_were_no_others(four):
    """But for the draws, which are others where there are other heads."""
    train = method("dfr_train", "train", [(0.99, 0.99, 0.99, 0.99)])
    parts = [*zip(four[0], [part for _, part in four[1].groupby("method", sort=False)], strict=True), train]
    whole = measure(*together(*parts)).set_index("method")
    for names, mark in (
        (["erm"], "best_of_block"),
        (["dac", "hsfm"], "best_of_block"),
        (["dfr", "dfr_train"], "best_of_block"),
        (["erm", "dfr", "dac", "hsfm"], "best_without_train"),
        (list(whole.index), "best"),
    ):
        alone = measure(*together(*(part for part in parts if part[0].method in names))).set_index("method")
        for metric, end in itertools.product(tables.METRICS, ("", "_low", "_high")):
            ours, theirs = (f"{metric}_to_{name}{end}" for name in (mark, "best"))
            assert whole.loc[names, ours].to_numpy() == pytest.approx(alone.loc[names, theirs].to_numpy(), abs=0.5)
            assert whole.loc[names, f"{metric}_{mark}"].tolist() == alone.loc[names, f"{metric}_best"].tolist()
    assert whole.loc[["dfr", "hsfm"], "worst_group_best_without_train"].all()
    assert not whole.loc[["dfr", "hsfm"], "worst_group_best"].any(), "with labels of train one is better"


def test_equal_as_shown_is_equally_best():
    """Six of 720 images in one of twenty heads are told apart from none, and both show 100.0."""
    seeds, right = tuple(range(20)), (1.0, 1.0, 1.0, 1.0)
    heads = method("llr", "none", [*[right] * 19, (0.98, 1.0, 1.0, 1.0)], seeds=seeds)
    found = measure(*together(method("hsfm", "none", [right] * 20, seeds=seeds), heads)).set_index("method")
    assert found.loc["llr", "average_to_best_high"] < 0
    assert found["average_best"].all()


def test_the_same_images_tell_apart_what_two_samples_would_not():
    """Two of 60 images, of which the better head gets both and no other differs; as independent they are the same."""
    better, worse = (0.9, 0.9, 0.7, 0.9), (0.9, 0.9, 0.6, 0.9)
    found = measure(*together(method("hsfm", "none", [better]), method("erm", "none", [worse]))).set_index("method")
    assert found.loc["erm", "worst_group_high"] > found.loc["hsfm", "worst_group_low"]
    assert not found.loc["erm", "worst_group_best"]


def test_runs_count_alike_whatever_their_seeds():
    parts = together(
        method("hsfm", "none", [(0.9, 0.9, 0.6, 0.9)], run=0),
        method("hsfm", "none", [(0.9, 0.9, 0.8, 0.9)] * 2, run=1, seeds=(0, 1)),
        method("erm", "none", [(0.9, 0.9, 0.5, 0.9)], run=0),
        method("erm", "none", [(0.9, 0.9, 0.5, 0.9)], run=1),
    )
    found = measure(*parts).set_index("method")
    assert found.loc["hsfm", "worst_group_to_erm"] == pytest.approx(20)


def test_datasets_are_measured_by_themselves(four):
    other = method("erm", "none", [(0.8, 0.8, 0.8, 0.7)], dataset="other")
    both = measure([*four[0], other[0]], pd.concat([four[1], other[1]]))
    alone = measure(*four)
    pd.testing.assert_frame_equal(both[both["dataset"] == "toy"], alone)
    assert both["dataset"].iloc[-1] == "other"
    assert both["worst_group_best"].iloc[-1]


def test_unknown_groups_leave_the_average(four):
    found = measure(*together(method("erm", "none", [(1.0, 0.9, 0.5, 1.0)], unknown=True))).iloc[0]
    assert np.isnan(found[["worst_group_low", "worst_group_to_best", "adjusted_average_high"]].astype(float)).all()
    assert not found["worst_group_best"]
    assert found["average_low"] < found["average_high"]
    assert found["worst_class_low"] < found["worst_class_high"]


def test_predictions_of_other_images_are_an_error(four):
    predictions, scores = four
    other = replace(predictions[3], image_id=predictions[3].image_id[::-1])
    with pytest.raises(ValueError, match=r"^predictions of toy, run 0, hsfm: images or labels are not those"):
        measure([*predictions[:3], other], scores)

import dataclasses

import numpy as np
import pytest

from hsfm.evaluation.predictions import (
    Predictions,
    check_same_images,
    gather,
    predict,
    read_predictions,
    write_predictions,
)  # fmt: skip
from hsfm.evaluation.scores import score_heads

PREDICTED = np.array([[0, 0], [1, 0], [1, 1], [1, 0], [0, 1]])


def predictions(**changes) -> Predictions:
    """Five images of two classes; the attribute of the last is unknown."""
    return Predictions(
        **{
            "dataset": "toy", "run": 2, "method": "hsfm", "seeds": (4, 9),
            "image_id": ("a", "b", "c", "d", "e"), "y": np.array([0, 0, 1, 1, 0]),
            "attribute": np.array([0, 1, 0, 1, -1]), "group": np.array([0, 1, 2, 3, -1]), "predicted": PREDICTED,
            "checkpoint_sha256": "c0ffee",
        }
        | changes
    )  # fmt: skip


def test_round_trip(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_predictions(path, predictions())
    found = read_predictions(path)
    for field in dataclasses.fields(found):
        assert np.array_equal(getattr(found, field.name), getattr(predictions(), field.name)), field.name
    assert found.correct.tolist() == [[True, True], [False, True], [True, True], [True, False], [True, False]]


def test_a_row_that_is_left_out_has_no_predictions(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_predictions(path, predictions(seeds=(), predicted=PREDICTED[:, :0]))
    assert read_predictions(path).predicted.shape == (5, 0)


def test_seeds_of_several_networks_are_put_together():
    parts = [
        predictions(seeds=(seed,), predicted=PREDICTED[:, [column]], checkpoint_sha256=f"c{seed}")
        for column, seed in enumerate((4, 9))
    ]
    whole = gather(parts)
    assert (whole.seeds, whole.checkpoint_sha256) == ((4, 9), "c4, c9")
    assert np.array_equal(whole.predicted, PREDICTED)


def test_other_images_are_named():
    for changes in ({"image_id": ("a", "b", "x", "d", "e")}, {"y": np.array([0, 0, 0, 1, 0])}):
        other = predictions(method="dac", **changes)
        with pytest.raises(ValueError, match="here: images or labels are not those of hsfm, run 2"):
            check_same_images(predictions(), other, "here")
    check_same_images(predictions(), predictions(method="dac"), "here")


def test_predictions_count_what_the_scores_do(splits, erm_head, opposites):
    found = predict(opposites, splits["test"], 4)
    assert (found.run, found.method, found.seeds, found.dataset) == (4, "hsfm", (3, 5), "planted")
    assert found.predicted[:, 0].tolist() == erm_head.predict(splits["test"].features).tolist()
    assert (found.predicted.sum(1) == 1).all()
    scores = score_heads(opposites, [splits["test"]], run=4)
    assert found.correct.sum(0).tolist() == scores.groupby("seed")["correct"].sum().tolist()

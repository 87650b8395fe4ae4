"""Measures beyond accuracy against scikit-learn's."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, log_loss, recall_score, roc_auc_score

from hsfm.evaluation.measures import BINS, auroc, calibration_error, measure, recall, temperature

NAMES = ("cat", "dog", "owl")


def sample(c, n=400, s=2, seed=0):
    """Logits of two heads that are too sure, some of them equal, and the labels of rows in three groups."""
    rng = np.random.default_rng(seed)
    y = rng.choice(c, size=n, p=np.arange(1, c + 1) / np.arange(1, c + 1).sum())
    logits = np.round(2 * rng.normal(size=(s, n, c)) + 3 * np.eye(c)[y], 1)
    return logits, y, rng.integers(0, 3, n)


def expected_calibration_error(confidence, correct):
    """By scikit-learn's curve of the probability that a prediction is right; its bins are those with rows."""
    accuracy, mean = calibration_curve(correct, confidence, n_bins=BINS)
    places = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    sizes = np.bincount(places, minlength=BINS)
    return (sizes[sizes > 0] / len(correct) * np.abs(accuracy - mean)).sum()


@pytest.mark.parametrize("c", [2, 3])
def test_measures_are_scikit_learns_of_the_mean_over_heads(c):
    logits, y, group = sample(c)
    val, y_val, _ = sample(c, n=200, seed=1)
    wanted = ["balanced_accuracy", "recall", "ece", *(["auroc"] if c == 2 else [])]
    (row,) = measure({"llr": (logits, val)}, y, y_val, group, class_names=NAMES[:c], measures=wanted).to_dict("records")
    predicted, sure = logits.argmax(-1), softmax(logits, axis=-1).max(-1)
    expected = {
        "balanced_accuracy": [balanced_accuracy_score(y, p) for p in predicted],
        "ece": [expected_calibration_error(s, p == y) for s, p in zip(sure, predicted, strict=True)],
        **{
            f"recall_{NAMES[k]}": [recall_score(y, p, labels=[k], average=None)[0] for p in predicted] for k in range(c)
        },
    }
    calm = [
        softmax(head / temperature(of_val, y_val), axis=-1).max(-1) for head, of_val in zip(logits, val, strict=True)
    ]
    expected["ece_after"] = [expected_calibration_error(s, p == y) for s, p in zip(calm, predicted, strict=True)]
    if c == 2:
        expected["auroc"] = [roc_auc_score(y, head[:, 1] - head[:, 0]) for head in logits]
    assert {key.removesuffix("_percent") for key in row if key.endswith("_percent")} == set(expected)
    for name, values in expected.items():
        assert row[f"{name}_percent"] == pytest.approx(100 * np.mean(values), abs=1e-9)
        assert row[f"{name}_deviation"] == pytest.approx(100 * np.std(values, ddof=1), abs=1e-9)
        assert row[f"{name}_low"] <= row[f"{name}_percent"] <= row[f"{name}_high"]
    assert row["ece_after_percent"] < row["ece_percent"], "the heads are too sure"


def test_weights_are_rows_that_are_there_so_often():
    logits, y, _ = sample(2)
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    rows = np.repeat(np.arange(len(y)), weights)
    score, correct, sure = logits[..., 1] - logits[..., 0], logits.argmax(-1) == y, softmax(logits, axis=-1).max(-1)
    once, many = np.ones((1, len(rows))), weights[None].astype(float)
    for of_weights, of_rows in (
        (auroc(many, score, y == 1), auroc(once, score[:, rows], y[rows] == 1)),
        (calibration_error(many, sure, correct), calibration_error(once, sure[:, rows], correct[:, rows])),
        (recall(many, correct, y == 0), recall(once, correct[:, rows], y[rows] == 0)),
    ):
        assert of_weights == pytest.approx(of_rows, abs=1e-12)


def test_an_interval_is_the_naive_bootstraps():
    logits, y, group = sample(2, s=1)
    row = measure({"a": (logits, logits)}, y, y, group, class_names=NAMES[:2], measures=["auroc"], resamples=2000)
    rng, score = np.random.default_rng(1), logits[0, :, 1] - logits[0, :, 0]
    members = [np.flatnonzero(group == g) for g in range(3)]
    drawn = [np.concatenate([rng.choice(rows, len(rows)) for rows in members]) for _ in range(2000)]
    low, high = np.quantile([100 * roc_auc_score(y[rows], score[rows]) for rows in drawn], (0.025, 0.975))
    assert row["auroc_low"].item() == pytest.approx(low, abs=0.15)
    assert row["auroc_high"].item() == pytest.approx(high, abs=0.15)


def test_no_other_temperature_has_a_lower_loss():
    logits, y, _ = sample(3, s=1)
    found = temperature(logits[0], y)
    losses = {t: log_loss(y, softmax(logits[0] / t, axis=-1)) for t in (0.98 * found, found, 1.02 * found)}
    assert min(losses, key=losses.get) == found


def test_what_cannot_be_measured_is_refused():
    logits, y, group = sample(3)
    with pytest.raises(ValueError, match="auroc is for two classes, and there are 3"):
        measure({"a": (logits, logits)}, y, y, group, class_names=NAMES)
    with pytest.raises(ValueError, match="measures: unknown 'f1'; allowed are balanced_accuracy"):
        measure({"a": (logits, logits)}, y, y, group, class_names=NAMES, measures=["f1"])

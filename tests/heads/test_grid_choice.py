"""Letters: k ways to halve, e epochs, p points, n rows."""

import numpy as np
import pytest
import torch

from hsfm.heads import grid_choice
from hsfm.heads.grid_choice import Tried, honest, pick
from hsfm.heads.inferred_groups.infer import stratified_folds
from hsfm.heads.scorer import Scorer


def tried(y, share, seed=0):
    """Right on so large a share [e k p] of the rows, drawn anew for each."""
    rng = np.random.default_rng(seed)
    right = torch.from_numpy(rng.random((*share.shape, len(y))) < share[..., None])
    return Tried(torch.where(right, y, 1 - y).to(torch.uint8), torch.ones(share.shape, dtype=torch.bool))


def rates(*values):
    return [{"inner_lr": float(value)} for value in values]


def test_each_folds_rows_have_the_predictions_that_all_others_choose(splits, monkeypatch):
    """By loops over rows, epochs and points."""
    monkeypatch.setattr(grid_choice, "WINDOW", 3)
    monkeypatch.setattr(grid_choice, "FOLDS", 4)
    monkeypatch.setattr(grid_choice, "SPLITS", 1)
    monkeypatch.setattr(grid_choice, "_AT_ONCE", 1000)
    val, (places, grid) = splits["val"], (rates(1, 2, 3, 1, 2, 3), {"inner_lr": (1, 2, 3), "hard_share": (0.5, 1.0)})
    places = [place | {"hard_share": share} for place, share in zip(places, [0.5] * 3 + [1.0] * 3, strict=True)]
    batches = [tried(val.y, np.full((epochs, 2, 3), 0.8), seed) for seed, epochs in enumerate((7, 5))]
    batches[1].sound[:, 1, 2] = False
    y, group = val.y.numpy(), val.group.numpy()
    fold = stratified_folds(group, 4, np.random.default_rng(9))

    def accuracy(classes, rows):
        return min(np.mean(classes[rows & (group == g)] == y[rows & (group == g)]) for g in range(4))

    chosen = []
    for number in range(4):
        rows, points = fold != number, []
        for place, (batch, p) in zip(places, [(batch, p) for batch in batches for p in range(3)], strict=True):
            raw = [np.mean([accuracy(way[p].numpy(), rows) for way in epoch]) for epoch in batch.classes]
            curve = [np.mean(raw[max(0, e - 1) : e + 2]) for e in range(len(raw))]
            best = [e for e in range(len(curve)) if curve[e] == max(curve)]
            steps = abs(place["inner_lr"] - 2) + (place["hard_share"] == 0.5)
            if batch.sound[:, :, p].all():
                points.append((steps, -max(curve), best[len(best) // 2], batch.classes[:, :, p].numpy()))
        top = max(-minus for _, minus, *_ in points)
        smallest = min(np.sum(rows & (group == g)) for g in range(4))
        close = [point for point in points if -point[1] >= top - 0.5 * np.sqrt(top * (1 - top) / smallest)]
        chosen.append(min(close, key=lambda point: point[:2])[2:])
    assert len({epoch for epoch, _ in chosen}) > 1  # or the oracle shows little
    offsets = [o for o in (-1, 0, 1) if all(0 <= epoch + o < len(classes) for epoch, classes in chosen)]
    pooled = np.zeros((len(offsets), 2, len(y)), dtype=int)
    for number, (epoch, classes) in enumerate(chosen):
        for w, offset in enumerate(offsets):
            pooled[w][:, fold == number] = classes[epoch + offset][:, fold == number]
    found = honest(batches, places, grid, Scorer(val, "worst_group"), val.y, seed=9)
    every = np.ones(len(y), dtype=bool)
    expected = np.mean([accuracy(way, every) for epoch in pooled for way in epoch])
    assert found.accuracy == pytest.approx(expected)
    assert (found.classes.numpy() == pooled[offsets.index(0)]).all()
    assert found.interval[0] < expected < found.interval[1]


@pytest.mark.parametrize("rule", ["worst_group", "worst_class", "average"])
def test_of_noise_the_best_is_above_chance_and_the_estimate_is_not(splits, monkeypatch, rule):
    monkeypatch.setattr(grid_choice, "WINDOW", 1)
    val, of_best, estimates = splits["val"], [], []
    scorer, places, grid = Scorer(val, rule), rates(*range(6)), {"inner_lr": tuple(range(6))}
    for seed in range(20):
        batches = [tried(val.y, np.full((60, 2, 6), 0.5), seed)]
        of_best.append(pick(batches, places, grid, scorer).accuracy.max())
        found = honest(batches, places, grid, scorer, val.y, seed=seed)
        estimates.append(found.accuracy)
    assert found.classes.shape == (2 * grid_choice.SPLITS, len(val.y))
    # what the rule gives a head that guesses: the lowest of several parts is below 0.5
    chance = scorer.of_classes(tried(val.y, np.full((1, 1, 400), 0.5), 99).classes[0, 0]).mean()
    error = np.std(estimates, ddof=1) / np.sqrt(20)
    assert abs(np.mean(estimates) - float(chance)) < 3 * error
    assert min(of_best) > float(chance) + 0.05


def test_the_interval_is_that_of_a_binomial_share(splits):
    """One prediction, one part: the normal approximation."""
    val = splits["val"]
    found = honest(
        [tried(val.y, np.full((1, 1, 1), 0.8))], rates(1), {"inner_lr": (1,)}, Scorer(val, "average"), val.y, 0
    )
    share, error = found.accuracy, np.sqrt(found.accuracy * (1 - found.accuracy) / len(val.y))
    assert found.interval == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.004)
    assert found.in_words == f"{100 * share:.1f} [{100 * found.interval[0]:.0f}-{100 * found.interval[1]:.0f}]"

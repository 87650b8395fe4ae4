"""Choice of a point of a grid and of an epoch by held-out predictions, and an accuracy that the choice has not raised.

The highest of many accuracies is too high on the rows that it was chosen by. So these are split into folds: for the
rows of each count the predictions of what all other rows would have chosen. No head is trained for it. The idea is
nested cross-validation's; as in bootstrap bias-corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018,
arXiv 1708.07180) predictions that are there already are pooled anew.

Letters: n rows of validation, k ways to halve it, e epochs, p points, w epochs around a chosen one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from hsfm.core.bootstrap import lowest_interval, resample
from hsfm.heads.inferred_groups.infer import stratified_folds
from hsfm.heads.scorer import Scorer

WINDOW = 11  # epochs that the held-out accuracy is averaged over
TOLERANCE = 0.5  # standard errors of an accuracy that a point off the grid's middle must be better by
# Ways to split rows, and parts in each. More parts hardly differ in their choice, then as lucky as that on all rows;
# fewer choose on much less. Several ways take out the chance of one. benchmarks/held_out_choice.py compares parts.
SPLITS, FOLDS = 4, 5
RESAMPLES = 2000
_AT_ONCE = 4_000_000  # predictions that are scored at a time


@dataclass(frozen=True)
class Tried:
    """Predictions for held-out rows by the points of one batch."""

    classes: Integer[Tensor, "e k p n"]  # of each way to halve, by the head that was not taught on the row
    sound: Bool[Tensor, "e k p"]  # whether the heads of both halves are finite

    def curves(self, scorer: Scorer, rows: Int[Tensor, " m"] | None = None) -> Float[np.ndarray, "e p"]:
        """Smoothed accuracy of every point on these rows of val, -inf where it diverged on a half."""
        size = max(1, _AT_ONCE // self.classes[0].numel())
        blocks = [
            scorer.of_classes(block if rows is None else block[..., rows], rows) for block in self.classes.split(size)
        ]
        return smooth(torch.cat(blocks).where(self.sound, -torch.inf).mean(1).cpu().numpy())


@dataclass(frozen=True)
class Pick:
    """A point, and the best epoch of every one; epochs are counted from 0."""

    number: int
    best: Int[np.ndarray, " p"]
    accuracy: Float[np.ndarray, " p"]  # of every point at its best epoch, -inf where it diverged


def pick(
    batches: Sequence[Tried],
    places: Sequence[Mapping[str, float]],
    grid: Mapping[str, tuple],
    scorer: Scorer,
    rows: Int[Tensor, " m"] | None = None,
) -> Pick:
    """The point nearest to the middle of the grid, of those whose best is within TOLERANCE standard errors of the best.

    places: of all batches' points, on the grid's axes. rows: of val that count, all by default. At
    least one point must not have diverged.
    """
    curves = [batch.curves(scorer, rows) for batch in batches]
    best = np.array([_middle_of_best(of_point) for curve in curves for of_point in curve.T])
    accuracy = np.concatenate([curve.max(0) for curve in curves])
    close = np.flatnonzero(accuracy >= accuracy.max() - TOLERANCE * _standard_error(accuracy.max(), scorer, rows))
    number = min(close, key=lambda i: (_off_middle(places[i], grid), -accuracy[i]))
    return Pick(int(number), best, accuracy)


@dataclass(frozen=True)
class Honest:
    """Expectation of a choice: predictions of every row by heads that neither learned nor were chosen by it.

    A row's part in them is left: in each way to halve, heads that the row taught predict the other half, and these
    predictions help to choose. And a batch ends by the accuracy on all rows.
    """

    classes: Int[Tensor, "k n"]  # of the chosen epochs themselves
    accuracy: float  # by the scorer's rule, averaged over ways to halve and epochs nearby
    interval: tuple[float, float]  # of 95 %, over rows drawn within the parts that the rule tells apart

    @property
    def in_words(self) -> str:
        """In percent, with the interval: `78.4 [70-85]`."""
        low, high = self.interval
        return f"{100 * self.accuracy:.1f} [{100 * low:.0f}-{100 * high:.0f}]"


def honest(
    batches: Sequence[Tried],
    places: Sequence[Mapping[str, float]],
    grid: Mapping[str, tuple],
    scorer: Scorer,
    y: Int[Tensor, " n"],
    seed: int,
) -> Honest:
    """The choice made anew for each of FOLDS parts of val, by all rows but its own; its predictions for these, pooled.

    So on each of SPLITS ways to split val, by `scorer.parts`; the accuracy is their mean. As many epochs around the
    chosen ones count as all folds' choices have, at most WINDOW. Where all folds choose as all rows do, the accuracy is
    that of the pick. seed: draws the folds.
    """
    parts, rng = scorer.parts, np.random.default_rng(seed)
    folds = [stratified_folds(parts.cpu().numpy(), FOLDS, rng) for _ in range(SPLITS)]
    pooled = [_pooled(batches, places, grid, scorer, torch.from_numpy(fold).to(parts.device)) for fold in folds]
    accuracy = float(torch.stack([scorer.of_classes(classes).mean() for classes, _ in pooled]).mean())
    middle = torch.cat([classes[before] for classes, before in pooled])
    return Honest(middle.short().cpu(), accuracy, _interval([classes for classes, _ in pooled], scorer, y))


def _pooled(
    batches: Sequence[Tried],
    places: Sequence[Mapping[str, float]],
    grid: Mapping[str, tuple],
    scorer: Scorer,
    fold: Int[Tensor, " n"],
) -> tuple[Integer[Tensor, "w k n"], int]:
    """For the rows of every fold what the choice of the others predicts, and the place of the chosen epochs in w."""
    points = [(batch, point) for batch in batches for point in range(batch.classes.shape[2])]
    chosen = []  # by fold its rows, and of the chosen point the predictions for them [e k m] and the epoch
    for number in range(FOLDS):
        others, rows = (fold != number).nonzero().squeeze(1), (fold == number).nonzero().squeeze(1)
        found = pick(batches, places, grid, scorer, others)
        batch, point = points[found.number]
        chosen.append((rows, batch.classes[:, :, point, rows], int(found.best[found.number])))
    before = min(WINDOW // 2, *(epoch for _, _, epoch in chosen))
    after = min(WINDOW // 2, *(len(of_epochs) - 1 - epoch for _, of_epochs, epoch in chosen))
    classes = chosen[0][1].new_empty(before + 1 + after, chosen[0][1].shape[1], len(fold))
    for rows, of_epochs, epoch in chosen:
        classes[..., rows] = of_epochs[epoch - before : epoch + after + 1]
    return classes, before


def _interval(pooled: Sequence[Integer[Tensor, "_ k n"]], scorer: Scorer, y: Int[Tensor, " n"]) -> tuple[float, float]:
    """Of the mean over splits of the accuracy by the rule, at the same choices."""
    correct = torch.cat([(classes == y).flatten(0, 1) for classes in pooled]).T.cpu().numpy()  # [n h]
    sizes = [classes.shape[0] * classes.shape[1] for classes in pooled]
    weights, ends = np.repeat([1 / (size * len(sizes)) for size in sizes], sizes), []
    for parts, _ in scorer.scored_parts:
        part = parts.cpu().numpy()
        right, part = correct[part >= 0], part[part >= 0]
        observed = np.stack([right[part == one].mean(0) for one in np.unique(part)])
        ends.append(lowest_interval(resample(right, part, resamples=RESAMPLES), observed, weights))
    low, high = np.min(ends, axis=0).tolist()
    return low, high


def smooth(values: Float[np.ndarray, "e p"]) -> Float[np.ndarray, "e p"]:
    """Mean over WINDOW epochs around each, fewer at the ends."""
    half = WINDOW // 2
    return np.stack([values[max(0, i - half) : i + half + 1].mean(0) for i in range(len(values))])


def _middle_of_best(curve: Float[np.ndarray, " e"]) -> int:
    """The middle one of the highest epochs, counted from 0: epochs that reach the same best one lie side by side."""
    highest = np.flatnonzero(curve == curve.max())
    return int(highest[len(highest) // 2])


def _standard_error(accuracy: float, scorer: Scorer, rows: Int[Tensor, " m"] | None) -> float:
    """Of this accuracy on the smallest part of the rows that the scorer tells apart; as of 50 % where it is 0 or 1."""
    variance = accuracy * (1 - accuracy) or 0.25
    parts = scorer.parts if rows is None else scorer.parts[rows]
    _, counts = parts[parts >= 0].unique(return_counts=True)
    return float(np.sqrt(variance / int(counts.min())))


def _off_middle(point: Mapping[str, float], grid: Mapping[str, tuple]) -> float:
    """Steps on the grid from the middle of every axis; of a share from the largest, which is no end of a scale."""
    steps = 0.0
    for name, values in grid.items():
        place = sorted(values).index(point[name])
        steps += len(values) - 1 - place if name == "hard_share" else abs(place - (len(values) - 1) / 2)
    return steps

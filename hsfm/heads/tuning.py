"""Choice of settings and epoch of a head's training on held-out halves of validation; HSFM and its control share it.

Letters: n rows of validation, e epochs, p points of the grid, c classes.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hsfm.core.progress import Progress
from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings, NotApplicable
from hsfm.heads.hard_set import HardSet, limits
from hsfm.heads.hard_training import TUNED, HardTrainingSettings, TuneSettings
from hsfm.heads.scorer import Scorer

log = logging.getLogger(__name__)

SIDE_BY_SIDE = ("inner_lr", "outer_lr")  # of TuneSettings, which points of one batch may differ in
AXES = (*SIDE_BY_SIDE, "hard_share", "support_per_class", "inner_steps", "support_steps")
CHUNK = 20  # epochs between two looks at whether a batch has stalled
REACH = 10  # epochs before and after the chosen one, of which rows that taught pick: heads swing between the groups
WINDOW = 11  # epochs that the held-out accuracy is averaged over
TOLERANCE = 0.5  # standard errors of an accuracy that a point off the grid's middle must be better by
GAP = 0.1  # between the accuracy on rows that taught and on held-out ones, either way, that a warning speaks of


@dataclass(frozen=True)
class Half:
    """One half of validation, which teaches while the other is held out."""

    taught: Bool[Tensor, " n"]
    seed: int  # of what a training on it draws

    @property
    def rows(self) -> Int[Tensor, " m"]:
        return self.taught.nonzero().squeeze(1)


# Trains the p points of one batch on h halves, side by side, for the next e epochs; returns after each the classes that
# the heads predict for all of validation, [e h p n], and which heads are finite, [e h p].
Advance = Callable[[int], tuple[Tensor, Tensor]]
# an Advance for the points of one batch, K_hard, and the halves
Start = Callable[[Sequence[HardTrainingSettings], tuple[int, ...], Sequence[Half]], Advance]


@dataclass(frozen=True)
class Choice:
    """The settings that a fit on all of validation takes."""

    settings: HardTrainingSettings  # with `tune` null, and as `epochs` the last that may be kept
    epoch: int  # the chosen one
    hard_per_class: tuple[int, ...]  # K_hard of every class on all of validation
    held_out: float  # accuracy by the scorer's rule on rows that did not teach, averaged over epochs nearby
    epochs: int  # that its batch was trained for
    at_edge: tuple[str, ...]  # axes on whose first or last value the choice lies
    table: pd.DataFrame  # one row per point: its place on AXES, its best epoch and held_out there, chosen
    held_out_classes: Int[Tensor, "k n"]  # of each way to halve validation, predicted for its rows where held out

    @property
    def keep_from(self) -> int:
        """The first epoch that may be kept; of these the best on all of validation is, the later one on a tie."""
        return max(1, self.epoch - REACH)

    def outer_set(self, hard_set: HardSet) -> HardSet:
        """The hard set of the first epoch, with K_hard as chosen."""
        return replace(hard_set, chosen=hard_set.rank <= limits(self.hard_per_class, hard_set.y))

    def found(self, taught: Sequence[float]) -> dict[str, Any]:
        """Choice and accuracies, for the heads' file. taught: accuracy by the rule on all of validation, by seed."""
        own = {name: getattr(self.settings, name) for name in TUNED if name in type(self.settings).model_fields}
        kept = {"epoch": self.epoch, "held_out": self.held_out, "taught": list(taught), "epochs_tried": self.epochs}
        sizes = self.hard_per_class[0] if len({*self.hard_per_class}) == 1 else list(self.hard_per_class)
        return {**own, **kept, "hard_per_class": sizes, "at_edge": list(self.at_edge)}

    def in_words(self, scorer: Scorer) -> str:
        return f"settings and epoch by the {scorer.in_words} of held-out halves of validation"

    def remark(self, taught: Sequence[float], scorer: Scorer) -> str:
        """Accuracies of the choice, and whether training had stalled, for tables' notes."""
        end = f"the last of {self.epochs}" if "epochs" in self.at_edge else "where held-out rows stalled"
        return (
            f"validation {scorer.in_words} {100 * self.held_out:.1f} held out, {percent(taught)} on the rows that "
            f"taught; epoch {self.epoch} and {REACH} around it, {end}"
        )

    def remarks(self, taught: Sequence[float], scorer: Scorer, others: Sequence[str] = ()) -> tuple[str, ...]:
        """The remark for each seed, behind others of its head."""
        said = self.remark(taught, scorer)
        return tuple("; ".join(filter(None, [other, said])) for other in others or [""] * len(taught))

    def warn(self, called: str, taught: Sequence[float]) -> None:
        """One line in the log where the choice is not to be trusted as it is, with what to do."""
        found, cures, learned = [], [], float(np.mean(taught))
        if learned - self.held_out > GAP:
            found.append(
                f"{percent([learned])} % on the rows that taught, {percent([self.held_out])} % on held-out ones"
            )
            cures.append("expect the lower on new images, and give more validation images if you can")
        if self.held_out - min(taught) > GAP:  # which no row that taught should be
            found.append(f"a seed has {percent([min(taught)])} % on the rows that taught it")
            cures.append("leave it out, or raise tune/support_per_class")
        if self.at_edge:
            found.append(f"the choice lies at the edge of {', '.join(self.at_edge)}")
            cures.append(f"widen {', '.join(f'tune/{name}' for name in self.at_edge)}")
        if found:
            log.warning("%s: %s: %s", called, "; ".join(found), "; ".join(cures))


def spread(features: Float[Tensor, "n d"]) -> float:
    """Mean absolute deviation of features from their column's mean, over all columns."""
    return float((features - features.mean(0)).abs().mean())


def choose(
    train: Embeddings, val: Embeddings,
    *, settings: HardTrainingSettings, scorer: Scorer, start: Start, called: str,
) -> Choice:  # fmt: skip
    """The point of `settings.tune` and the epoch that do best on rows of val that they were not taught on.

    On each of so many ways to halve val, by `scorer.parts`, either half teaches once while the classes of the other are
    read; together they are predictions for all of val by heads that did not see it, which the scorer scores by its
    rule. A half's head of an epoch is, of those at most REACH epochs away, the one that scores best on the rows that
    taught it, as it will be in the fit. The number is averaged over the ways and over WINDOW epochs. Of the points
    whose best is within TOLERANCE standard errors of the highest, the one nearest to the middle of the grid is taken:
    smaller differences are noise, since most points get the same rows right. The halves, and what is drawn on them, are
    the same for all seeds, and so is the choice.

    Raises NotApplicable where a class has one row in val, and ValueError where every point diverged.
    """
    tune = settings.tune
    axes = [name for name in AXES if name in ("hard_share", *type(settings).model_fields)]
    halves = [half for repeat in range(tune.repeats) for half in _halves(val, scorer, repeat)]
    smallest = torch.stack([torch.bincount(val.y[half.rows], minlength=val.n_classes) for half in halves]).amin(0)
    units = {"inner_lr": 1 / (train.features.shape[1] * spread(train.features)), "outer_lr": spread(train.features)}
    side, apart = ([name for name in axes if (name in SIDE_BY_SIDE) == of] for of in (True, False))
    batches = [dict(zip(apart, values, strict=True)) for values in product(*(getattr(tune, name) for name in apart))]
    places, curves, fixed, classes = [], [], [], []
    with Progress(f"{called}, choosing", tune.epochs * len(batches), "epoch") as bar:
        for batch in batches:
            points = [batch | dict(zip(side, v, strict=True)) for v in product(*(getattr(tune, name) for name in side))]
            tried = [_fixed(settings, point, units) for point in points]
            advance = start(tried, _share(batch["hard_share"], smallest), halves)
            curve, predicted = _curves(advance, halves, val, scorer, tune, bar.update)
            curves.append(curve)
            classes += predicted
            places += points
            fixed += tried
    ends = np.repeat([len(curve) for curve in curves], [curve.shape[1] for curve in curves])
    best = np.array([_middle_of_best(of_point) for curve in curves for of_point in curve.T])
    held_out = np.concatenate([curve.max(0) for curve in curves])
    if not np.isfinite(held_out).any():
        raise ValueError(f"{called}: every point of tune diverged; lower tune/inner_lr and tune/outer_lr")
    grid = {name: getattr(tune, name) for name in axes}
    close = np.flatnonzero(held_out >= held_out.max() - TOLERANCE * _standard_error(held_out.max(), scorer))
    number = min(close, key=lambda i: (_off_middle(places[i], grid), -held_out[i]))
    edges = [name for name in axes if _at_edge(name, places[number][name], grid[name])]
    if best[number] + 1 + WINDOW // 2 >= ends[number] == tune.epochs:
        edges.append("epochs")
    chosen = np.arange(len(places)) == number
    found = {"epoch": best + 1, "held_out": held_out, "chosen": chosen}
    place = ", ".join(f"{name} {value:g}" for name, value in places[number].items())
    log.info(
        "%s: %s, epoch %d of %d (%s %.1f %% on held-out rows)",
        called, place, best[number] + 1, ends[number], scorer.in_words, 100 * held_out[number],
    )  # fmt: skip
    return Choice(
        settings=type(settings)(**{**dict(fixed[number]), "epochs": int(best[number]) + 1 + REACH}),
        epoch=int(best[number]) + 1,
        hard_per_class=_share(places[number]["hard_share"], torch.bincount(val.y, minlength=val.n_classes)),
        held_out=float(held_out[number]),
        epochs=int(ends[number]),
        at_edge=tuple(edges),
        table=pd.DataFrame(places).assign(**found),
        held_out_classes=classes[number].cpu(),
    )


def _halves(val: Embeddings, scorer: Scorer, repeat: int) -> list[Half]:
    """Two halves of val, each of which teaches once; of every part both hold as many rows, but for an odd one."""
    counts = torch.bincount(val.y, minlength=val.n_classes)
    if counts.min() < 2:
        name = val.class_names[int(counts.argmin())]
        raise NotApplicable(f"class {name} has {int(counts.min())} validation image(s); two halves need at least 2")
    rng = np.random.default_rng(repeat)
    parts, y = scorer.parts.cpu().numpy(), val.y.cpu().numpy()
    second = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        # part after part, shuffled within, so that every other row splits each of them, and the class
        order = rng.permutation(np.flatnonzero(y == label))
        second[order[np.argsort(parts[order], kind="stable")][rng.integers(2) :: 2]] = True
    sides = torch.from_numpy(second).to(val.y.device)
    return [Half(taught, 2 * repeat + number) for number, taught in enumerate((sides, ~sides))]


def _curves(
    advance: Advance, halves: Sequence[Half], val: Embeddings, scorer: Scorer, tune: TuneSettings,
    report: Callable[[int], None],
) -> tuple[Float[np.ndarray, "e p"], Int[Tensor, "p k n"]]:  # fmt: skip
    """Smoothed held-out accuracy of every point of a batch by epoch, -inf where it diverged on a half.

    And the classes that were predicted for held-out rows at each point's best epoch, for k ways to halve.
    """
    classes: list[Tensor] = []  # by epoch [h p n]
    taught: list[Tensor] = []  # by epoch [h p], the accuracy on the rows that taught
    held_out: list[Tensor] = []  # by epoch [k p n], each row by the head of its way to halve that was not taught on it
    raw: list[Tensor] = []
    rows = [half.rows for half in halves]
    first = torch.stack([half.taught for half in halves[::2]]).unsqueeze(1)  # [k 1 n]
    while len(taught) < tune.epochs:
        epochs = min(CHUNK, tune.epochs - len(taught))
        again = max(0, len(taught) - REACH)  # epochs from here on could not see as far ahead as they may now
        del raw[again:], held_out[again:]
        for predicted, sound in zip(*advance(epochs), strict=True):
            classes.append(predicted)
            own = [scorer(_logits(of_half[:, r], val), r) for of_half, r in zip(predicted, rows, strict=True)]
            taught.append(torch.stack(own).where(sound, -torch.inf))
        for epoch in range(len(raw), len(taught)):
            near = slice(max(0, epoch - REACH), epoch + REACH + 1)
            scores, of_near = torch.stack(taught[near]), torch.stack(classes[near])
            latest = len(scores) - 1 - scores.flip(0).argmax(0)  # of the best, [h p]
            kept = of_near.gather(0, latest[None, :, :, None].expand(1, *of_near.shape[1:]))[0]
            held_out.append(torch.where(first, kept[1::2], kept[::2]))
            values = scorer(_logits(held_out[-1], val))
            sound = scores.amax(0).isfinite()
            raw.append(values.where(sound[::2] & sound[1::2], -torch.inf).mean(0))
        report(epochs)
        smooth = _smooth(torch.stack(raw).cpu().numpy())
        if len(raw) - 1 - smooth.max(1).argmax() >= tune.patience:
            report(tune.epochs - len(raw))
            break
    best = [held_out[_middle_of_best(curve)][:, number] for number, curve in enumerate(smooth.T)]
    return smooth, torch.stack(best)


def _logits(classes: Int[Tensor, "*s m"], val: Embeddings) -> Float[Tensor, "*s m c"]:
    """Of heads that predict these classes."""
    return torch.nn.functional.one_hot(classes.long(), val.n_classes).to(val.features)


def _smooth(values: Float[np.ndarray, "e p"]) -> Float[np.ndarray, "e p"]:
    """Mean over WINDOW epochs around each, fewer at the ends."""
    half = WINDOW // 2
    return np.stack([values[max(0, i - half) : i + half + 1].mean(0) for i in range(len(values))])


def _middle_of_best(curve: Float[np.ndarray, " e"]) -> int:
    """The middle one of the highest epochs, counted from 0: epochs that reach the same best one lie side by side."""
    highest = np.flatnonzero(curve == curve.max())
    return int(highest[len(highest) // 2])


def _standard_error(accuracy: float, scorer: Scorer) -> float:
    """Of this accuracy on the smallest part that the scorer tells apart; as of 50 % where it is 0 or 1."""
    variance = accuracy * (1 - accuracy) or 0.25
    _, counts = scorer.parts[scorer.parts >= 0].unique(return_counts=True)
    return float(np.sqrt(variance / int(counts.min())))


def _fixed(settings: HardTrainingSettings, point: dict[str, float], units: dict[str, float]) -> HardTrainingSettings:
    """The settings of one point, in the features' own units."""
    own = {name: value * units.get(name, 1) for name, value in point.items() if name != "hard_share"}
    return type(settings)(**{**dict(settings), **own, "tune": None, "epochs": settings.tune.epochs})


def _share(share: float, counts: Int[Tensor, " c"]) -> tuple[int, ...]:
    """K_hard: so much of each class, at least one row."""
    return tuple(max(1, round(share * count)) for count in counts.tolist())


def _off_middle(point: dict[str, float], grid: dict[str, tuple]) -> float:
    """Steps on the grid from the middle of every axis; of a share from the largest, which is no end of a scale."""
    steps = 0.0
    for name, values in grid.items():
        place = sorted(values).index(point[name])
        steps += len(values) - 1 - place if name == "hard_share" else abs(place - (len(values) - 1) / 2)
    return steps


def _at_edge(name: str, value: Any, values: tuple) -> bool:
    """Whether it is the first or last of three values or more; a share of 1 is all that there is."""
    return len(values) > 2 and value in (min(values), max(values)) and (name, value) != ("hard_share", 1)

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
from hsfm.heads.grid_choice import WINDOW, Honest, Tried, honest, pick, smooth
from hsfm.heads.hard_set import HardSet, limits
from hsfm.heads.hard_training import TUNED, HardTrainingSettings, TuneSettings
from hsfm.heads.scorer import Scorer

log = logging.getLogger(__name__)

SIDE_BY_SIDE = ("inner_lr", "outer_lr")  # of TuneSettings, which points of one batch may differ in
AXES = (*SIDE_BY_SIDE, "hard_share", "support_per_class", "inner_steps", "support_steps")
CHUNK = 20  # epochs between two looks at whether a batch has stalled
REACH = 10  # epochs before and after the chosen one, of which rows that taught pick: heads swing between the groups
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
    held_out: Honest  # what to expect: predictions and accuracy on rows that neither taught nor chose
    epochs: int  # that its batch was trained for
    at_edge: tuple[str, ...]  # axes on whose first or last value the choice lies
    table: pd.DataFrame  # one row per point: its place on AXES, its best epoch and held_out there, chosen

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
        held_out = {"held_out": self.held_out.accuracy, "held_out_interval": list(self.held_out.interval)}
        kept = {"epoch": self.epoch, **held_out, "taught": list(taught), "epochs_tried": self.epochs}
        sizes = self.hard_per_class[0] if len({*self.hard_per_class}) == 1 else list(self.hard_per_class)
        return {**own, **kept, "hard_per_class": sizes, "at_edge": list(self.at_edge)}

    def in_words(self, scorer: Scorer) -> str:
        return f"settings and epoch by the {scorer.in_words} of held-out halves of validation"

    def remark(self, taught: Sequence[float], scorer: Scorer) -> str:
        """Accuracies of the choice, and whether training had stalled, for tables' notes."""
        end = f"the last of {self.epochs}" if "epochs" in self.at_edge else "where held-out rows stalled"
        return (
            f"validation {scorer.in_words} {self.held_out.in_words} held out, {percent(taught)} on the rows that "
            f"taught; epoch {self.epoch} and {REACH} around it, {end}"
        )

    def remarks(self, taught: Sequence[float], scorer: Scorer, others: Sequence[str] = ()) -> tuple[str, ...]:
        """The remark for each seed, behind others of its head."""
        said = self.remark(taught, scorer)
        return tuple("; ".join(filter(None, [other, said])) for other in others or [""] * len(taught))

    def warn(self, called: str, taught: Sequence[float]) -> None:
        """One line in the log where the choice is not to be trusted as it is, with what to do."""
        found, cures, learned, held_out = [], [], float(np.mean(taught)), self.held_out.accuracy
        if learned - held_out > GAP:
            found.append(f"{percent([learned])} % on the rows that taught, {self.held_out.in_words} % on held-out ones")
            cures.append("expect the lower on new images, and give more validation images if you can")
        if held_out - min(taught) > GAP:  # which no row that taught should be
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
    combinations = [
        dict(zip(apart, values, strict=True)) for values in product(*(getattr(tune, name) for name in apart))
    ]
    places, fixed, batches = [], [], []
    with Progress(f"{called}, choosing", tune.epochs * len(combinations), "epoch") as bar:
        for batch in combinations:
            points = [batch | dict(zip(side, v, strict=True)) for v in product(*(getattr(tune, name) for name in side))]
            tried = [_fixed(settings, point, units) for point in points]
            advance = start(tried, _share(batch["hard_share"], smallest), halves)
            batches.append(_train(advance, halves, val, scorer, tune, bar.update))
            places += points
            fixed += tried
    grid = {name: getattr(tune, name) for name in axes}
    if not any(np.isfinite(batch.curves(scorer)).any() for batch in batches):
        raise ValueError(f"{called}: every point of tune diverged; lower tune/inner_lr and tune/outer_lr")
    picked = pick(batches, places, grid, scorer)
    held_out = honest(batches, places, grid, scorer, val.y, seed=tune.repeats)  # the first that halves nothing
    number, epoch = picked.number, int(picked.best[picked.number]) + 1
    end = np.repeat([len(batch.classes) for batch in batches], [batch.classes.shape[2] for batch in batches])[number]
    edges = [name for name in axes if _at_edge(name, places[number][name], grid[name])]
    if epoch + WINDOW // 2 >= end == tune.epochs:
        edges.append("epochs")
    place = ", ".join(f"{name} {value:g}" for name, value in places[number].items())
    log.info(
        "%s: %s, epoch %d of %d (%s %s %% on held-out rows)",
        called, place, epoch, end, scorer.in_words, held_out.in_words,
    )  # fmt: skip
    found = {"epoch": picked.best + 1, "held_out": picked.accuracy, "chosen": np.arange(len(places)) == number}
    return Choice(
        settings=type(settings)(**{**dict(fixed[number]), "epochs": epoch + REACH}),
        epoch=epoch,
        hard_per_class=_share(places[number]["hard_share"], torch.bincount(val.y, minlength=val.n_classes)),
        held_out=held_out,
        epochs=int(end),
        at_edge=tuple(edges),
        table=pd.DataFrame(places).assign(**found),
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


def _train(
    advance: Advance, halves: Sequence[Half], val: Embeddings, scorer: Scorer, tune: TuneSettings,
    report: Callable[[int], None],
) -> Tried:  # fmt: skip
    """Train the points of one batch until none has improved on held-out rows for `tune.patience` epochs."""
    kind = torch.uint8 if val.n_classes <= 256 else torch.int16  # these are what a choice takes memory for
    classes: list[Tensor] = []  # by epoch [h p n]
    taught: list[Tensor] = []  # by epoch [h p], the accuracy on the rows that taught
    held_out: list[Tensor] = []  # by epoch [k p n], each row by the head of its way to halve that was not taught on it
    finite: list[Tensor] = []  # by epoch [k p]
    raw: list[Tensor] = []
    rows = [half.rows for half in halves]
    first = torch.stack([half.taught for half in halves[::2]]).unsqueeze(1)  # [k 1 n]
    while len(taught) < tune.epochs:
        epochs = min(CHUNK, tune.epochs - len(taught))
        again = max(0, len(taught) - REACH)  # epochs from here on could not see as far ahead as they may now
        del raw[again:], held_out[again:], finite[again:]
        for predicted, sound in zip(*advance(epochs), strict=True):
            classes.append(predicted.to(kind))
            own = [scorer.of_classes(of_half[:, r], r) for of_half, r in zip(predicted, rows, strict=True)]
            taught.append(torch.stack(own).where(sound, -torch.inf))
        for epoch in range(len(raw), len(taught)):
            near = slice(max(0, epoch - REACH), epoch + REACH + 1)
            scores, of_near = torch.stack(taught[near]), torch.stack(classes[near])
            latest = len(scores) - 1 - scores.flip(0).argmax(0)  # of the best, [h p]
            kept = of_near.gather(0, latest[None, :, :, None].expand(1, *of_near.shape[1:]))[0]
            held_out.append(torch.where(first, kept[1::2], kept[::2]))
            sound = scores.amax(0).isfinite()
            finite.append(sound[::2] & sound[1::2])
            raw.append(scorer.of_classes(held_out[-1]).where(finite[-1], -torch.inf).mean(0))
        report(epochs)
        if len(raw) - 1 - smooth(torch.stack(raw).cpu().numpy()).max(1).argmax() >= tune.patience:
            report(tune.epochs - len(raw))
            break
    return Tried(torch.stack(held_out), torch.stack(finite))


def _fixed(settings: HardTrainingSettings, point: dict[str, float], units: dict[str, float]) -> HardTrainingSettings:
    """The settings of one point, in the features' own units."""
    own = {name: value * units.get(name, 1) for name, value in point.items() if name != "hard_share"}
    return type(settings)(**{**dict(settings), **own, "tune": None, "epochs": settings.tune.epochs})


def _share(share: float, counts: Int[Tensor, " c"]) -> tuple[int, ...]:
    """K_hard: so much of each class, at least one row."""
    return tuple(max(1, round(share * count)) for count in counts.tolist())


def _at_edge(name: str, value: Any, values: tuple) -> bool:
    """Whether it is the first or last of three values or more; a share of 1 is all that there is."""
    return len(values) > 2 and value in (min(values), max(values)) and (name, value) != ("hard_share", 1)

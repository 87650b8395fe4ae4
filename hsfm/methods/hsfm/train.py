"""HSFM: learn edits of a few support features so that a head adapted on them does well on hard samples.

Source: arXiv 2603.29313. Letters: r trials, n support rows, d features, c classes, m hard samples, e epochs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hsfm.core.progress import Progress
from hsfm.features.embeddings import Embeddings, check_embeddings, check_same_origin
from hsfm.heads.draw import PerClass, draw_per_class, draw_sides, sizes_of
from hsfm.heads.hard_set import HardSet
from hsfm.heads.head import Head
from hsfm.heads.inferred_groups.attribute import infer_attribute
from hsfm.heads.scorer import Scorer
from hsfm.heads.tuning import Choice, Half
from hsfm.methods.hsfm.outer_loop import OF_TRIAL, BestState, Loop, Settings, Trial

log = logging.getLogger(__name__)

DEAD = "hardly moved from ERM's head"
DEAD_SHARE = 0.005  # a kept head that changes fewer validation predictions than this has hardly moved
MEMORY_BUDGET = 4 * 2**30  # bytes


@dataclass(frozen=True)
class MetaResult:
    """All tensors lie on the CPU."""

    head: Head  # the kept heads, weight [r c d], bias [r c]; NaN where kept_epoch is 0
    seeds: tuple[int, ...]
    kept_epoch: Int[Tensor, " r"]  # from 1; 0 where every epoch had a loss that is not finite
    history: pd.DataFrame  # one row per trial and epoch, see `train`
    hard_rows: Int[Tensor, "r e m"]  # rows of val that the outer loss of each epoch was over
    support_rows: Int[Tensor, "r n"]  # rows of the training embeddings
    support_after: Float[Tensor, "r n d"]  # those rows' features as edited at the kept epoch
    moved: Float[Tensor, " r"]  # share of validation predictions that differ from the ERM head's
    engine: str  # what trained them: compiled, or torch with the reason
    outer_set: Mapping[str, str] = field(default_factory=dict)  # settings that an inferred outer set came to
    doubt: str = ""  # why no groups could be inferred for it

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings for readers about each trial's head; empty where there are none."""
        of_all = f"outer set of hard images, no groups inferred: {self.doubt}" if self.doubt else ""
        each = (DEAD if share < DEAD_SHARE else "" for share in self.moved.tolist())
        return tuple("; ".join(filter(None, (of_all, own))) for own in each)


def train(
    train: Embeddings, val: Embeddings, head: Head, settings: Settings,
    *, seeds: Sequence[int], hard_per_class: PerClass, scorer: Scorer, first_hard_set: HardSet | None = None,
    choice: Choice | None = None,
) -> MetaResult:  # fmt: skip
    """Meta-train the support of each seed and return the heads adapted on it.

    train, val: embeddings of one checkpoint. Features and classes of both are trained on, val being the pool of hard
    samples; group labels enter through `scorer` alone. head: ERM's, weight `[c d]`. hard_per_class (K_hard): hard
    samples per class. scorer: picks the epoch, unless `settings.select_by` is `hard_loss`; the later epoch wins a tie.
    first_hard_set: the choice of the first epoch, which is otherwise made here by the same rule. choice: that led to
    these settings; it says which epochs may be kept, and sums go the faster of two ways.

    The history holds per seed and epoch: outer_loss (mean over the epoch's meta-gradient steps, natural log; NaN
    without any), hard_loss (of the epoch's head on its own hard set), val_average, val_worst_group (NaN without
    groups), val_worst_class and kept.

    Raises ValueError for embeddings or a head that do not belong together, and where every epoch of a seed diverged.
    """
    trials = [Trial(seed, settings, hard_per_class) for seed in seeds]
    kept = train_trials(
        train, val, head, trials,
        scorers={"kept": settings.rule(scorer)}, first_hard_set=first_hard_set,
        weighted=choice is not None and in_weights(val, hard_per_class),
        keep_from=1 if choice is None else choice.keep_from,
    )  # fmt: skip
    result = kept["kept"]
    for seed, epoch, moved in zip(seeds, result.kept_epoch.tolist(), result.moved.tolist(), strict=True):
        if epoch == 0:
            raise ValueError(
                f"inner_lr {settings.inner_lr}, outer_lr {settings.outer_lr}: seed {seed} diverged, no epoch has "
                "a finite loss; lower one of them"
            )
        if moved < DEAD_SHARE:
            log.warning(
                "seed %d: the head hardly moved (%.1f %% of the validation predictions differ from ERM's). The support "
                "may be dead: it holds no minority image, or ERM fits it already. Raise support_per_class or inner_lr.",
                seed,
                100 * moved,
            )
    return result


def train_trials(
    train: Embeddings, val: Embeddings, head: Head, trials: Sequence[Trial],
    *, scorers: Mapping[str, Any], first_hard_set: HardSet | None = None,
    memory_budget: int = MEMORY_BUDGET, weighted: bool = False, keep_from: int = 1,
) -> dict[str, MetaResult]:  # fmt: skip
    """Meta-train many trials of one shape side by side; history and errors as in `train`, whose `seed` may repeat here.

    scorers: `Scorer`, or what measures and chooses as one does.
    The training is the same whichever scorer chooses the epoch, so that the results of several, by their names, cost
    one. The history's column `number` counts the trials. Each trial is what it would be alone, up to rounding. A trial
    whose every epoch diverged is no error here: its kept_epoch is 0 and its head NaN. memory_budget: bytes that trials
    side by side may take, results not counted; more trials go one batch after the other.
    """
    head = Head(head.weight.detach(), head.bias.detach())
    _check(train, val, head, trials)
    trials, inferred, doubt = _with_inferred(train, val, trials)
    shared = trials[0].settings  # but for what may differ
    generators = [Generator().manual_seed(trial.seed) for trial in trials]
    rows = torch.stack([_draw(train, shared, generator) for generator in generators])
    outer_rows = _outer_rows(val if inferred is None else inferred, trials[0], first_hard_set, generators)
    size = trials_that_fit(train, val, trials[0], kept=len(scorers), memory_budget=memory_budget)
    batches = [slice(i, i + size) for i in range(0, len(trials), size)]
    kept, histories, hard_rows = {name: [] for name in scorers}, [], []
    with Progress("HSFM", shared.epochs * len(batches), "epoch") as bar:
        for batch in batches:
            loop = Loop(
                train, val, head, trials[batch],
                rows=rows[batch], outer_rows=None if outer_rows is None else outer_rows[:, batch], scorers=scorers,
                weighted=weighted, keep_from=keep_from,
            )  # fmt: skip
            loop.train(bar.update)
            histories.append(loop.history)
            hard_rows.append(loop.hard_rows.transpose(0, 1).cpu())
            for name, best in loop.best.items():
                kept[name].append(_kept(best, head, val))
    number = np.repeat(np.arange(len(trials)), shared.epochs)
    seed, epoch = np.array([trial.seed for trial in trials])[number], np.tile(range(1, shared.epochs + 1), len(trials))
    measures = {name: torch.cat([h[name] for h in histories], dim=1).T.flatten().cpu().numpy() for name in histories[0]}
    history, results = pd.DataFrame({"number": number, "seed": seed, "epoch": epoch, **measures}), {}
    for name, parts in kept.items():
        found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        results[name] = MetaResult(
            head=Head(found.pop("weight"), found.pop("bias")),
            seeds=tuple(trial.seed for trial in trials),
            history=history.assign(kept=epoch == found["kept_epoch"].numpy()[number]),
            hard_rows=torch.cat(hard_rows),
            support_rows=rows.cpu(),
            engine=loop.engine,
            outer_set={"outer_set": shared.outer_set, "refresh": shared.refresh} if inferred is not None else {},
            doubt=doubt,
            **found,
        )
    return results


def in_weights(val: Embeddings, hard_per_class: PerClass) -> bool:
    """Whether to weight all rows rather than to gather the hard ones for each trial.

    It is faster where most are hard, and lets classes of different numbers of rows count alike.
    """
    sizes = torch.tensor(sizes_of(hard_per_class, val.n_classes))
    counts = torch.bincount(val.y.cpu(), minlength=val.n_classes).minimum(sizes)
    return bool((counts != counts[0]).any()) or 4 * int(counts.sum()) >= len(val.y)


class HalvesTraining:
    """Points of a grid on halves of validation, side by side, whose `advance` is a `hsfm.heads.tuning.Advance`."""

    def __init__(
        self, train: Embeddings, val: Embeddings, erm: Head, points: Sequence[Settings], hard_per_class: PerClass,
        halves: Sequence[Half],
    ):  # fmt: skip
        trials = [Trial(half.seed, settings, hard_per_class) for half in halves for settings in points]
        _check(train, val, erm, trials)
        trials, inferred, _ = _with_inferred(train, val, trials)
        pool, shared = val if inferred is None else inferred, trials[0].settings
        generators = [Generator().manual_seed(half.seed) for half in halves]
        rows = torch.stack([_draw(train, shared, generator) for generator in generators])
        outer_rows = None
        if shared.outer_set != "hard":
            drawn = [
                half.rows[_outer_rows(pool.take(half.rows), trials[0], None, [generator])]
                for half, generator in zip(halves, generators, strict=True)
            ]
            outer_rows = torch.cat(drawn, dim=1).repeat_interleave(len(points), 1)
        taught = torch.stack([half.taught for half in halves])
        gathered = 2 * len(trials) * sum(sizes_of(hard_per_class, val.n_classes)) * train.features[0].nbytes
        self._shape, self._done = (len(halves), len(points)), 0
        self._loop = Loop(
            train, val, erm, trials,
            rows=rows.repeat_interleave(len(points), 0), outer_rows=outer_rows, scorers={},
            weighted=in_weights(val, hard_per_class) or gathered > MEMORY_BUDGET,
            taught=taught.repeat_interleave(len(points), 0),
        )  # fmt: skip

    def advance(self, epochs: int) -> tuple[Int[Tensor, "e h p n"], Bool[Tensor, "e h p"]]:
        classes: list[Tensor] = []
        self._loop.train(lambda: classes.append(self._loop.classes.to(torch.int16)), epochs)
        sound = self._loop.history["hard_loss"][self._done : self._done + epochs].isfinite()
        self._done += epochs
        return torch.stack(classes).view(epochs, *self._shape, -1), sound.view(epochs, *self._shape)


def _kept(best: BestState, erm: Head, val: Embeddings) -> dict[str, Tensor]:
    """Fields of a result from one batch of trials, on the CPU."""
    diverged = best.epoch == 0
    weight = best.weight.masked_fill(diverged.view(-1, 1, 1), torch.nan)
    bias = best.bias.masked_fill(diverged.view(-1, 1), torch.nan)
    head = Head(weight, bias)
    moved = (head.predict(val.features) != erm.predict(val.features)).float().mean(dim=1)
    found = {
        "weight": weight,
        "bias": bias,
        "kept_epoch": best.epoch,
        "support_after": best.support,
        "moved": moved.masked_fill(diverged, torch.nan),
    }
    return {name: tensor.cpu() for name, tensor in found.items()}


def _draw(train: Embeddings, shared: Settings, generator: Generator) -> Int[Tensor, " n"]:
    if shared.support_draw == "per_class":
        return draw_per_class(train.y, shared.support_per_class, train.n_classes, generator)
    size = int(torch.bincount(train.y, minlength=train.n_classes).clamp(max=shared.support_per_class).sum())
    return torch.randperm(len(train.y), generator=generator)[:size].to(train.y.device)


def _with_inferred(
    train: Embeddings, val: Embeddings, trials: Sequence[Trial]
) -> tuple[Sequence[Trial], Embeddings | None, str]:
    """Trials with the outer set that is to be had, val with its inferred attribute, and the reason where it has none.

    An inferred outer set stays. Where nothing can be inferred the hard one of the paper takes its place.
    """
    if trials[0].settings.outer_set != "inferred":
        return trials, None, ""
    inferred, doubt = infer_attribute(train, val, "outer_set: inferred")
    changes = {"outer_set": "hard"} if doubt else {"refresh": "never"}
    changed = [replace(trial, settings=trial.settings.model_copy(update=changes)) for trial in trials]
    return changed, inferred, doubt


def _outer_rows(
    val: Embeddings, trial: Trial, first_hard_set: HardSet | None, generators: Sequence[Generator]
) -> Int[Tensor, "_ r m"] | None:
    """The rows that `Loop` takes: the given choice for the first epoch, or a random one for each."""
    if trial.settings.outer_set == "hard":
        if first_hard_set is None:
            return None
        if first_hard_set.image_id != val.image_id:
            raise ValueError("first_hard_set: lists other images than val")
        chosen = first_hard_set.chosen.to(val.y.device).nonzero().squeeze(1)
        return chosen[val.y[chosen].argsort(stable=True)].expand(1, len(generators), -1)  # class by class
    if trial.settings.outer_set == "inferred":
        other = val.attribute != val.y  # values are numbered by the class that they go with
        drawn = [draw_sides(val.y, other, trial.hard_per_class, val.n_classes, g) for g in generators]
        return torch.stack(drawn)[None]
    epochs = trial.settings.epochs if trial.settings.refresh == "epoch" else 1
    drawn = [[draw_per_class(val.y, trial.hard_per_class, val.n_classes, g) for _ in range(epochs)] for g in generators]
    return torch.stack([torch.stack(of_trial) for of_trial in drawn], dim=1)


def trials_that_fit(
    train: Embeddings, val: Embeddings, trial: Trial, *, kept: int = 1, memory_budget: int = MEMORY_BUDGET
) -> int:
    """Number of trials like this that fit side by side into so many bytes, at least one; by an upper estimate.

    kept: best states that each keeps.
    """
    d, item = train.features.shape[1], train.features.element_size()
    n = min(trial.settings.support_per_class * train.n_classes, len(train.y))
    m = min(sum(sizes_of(trial.hard_per_class, val.n_classes)), len(val.y))
    rows = 2 * 4 * trial.settings.epochs * m
    # support, gradient, Adam's moments, temporaries, best states; hard features; logits of val; products of the support
    each = rows + item * ((8 + kept) * n * d + 2 * m * d + 6 * len(val.y) * val.n_classes + 2 * n * n)
    return max(1, memory_budget // each)


def _check(train: Embeddings, val: Embeddings, head: Head, trials: Sequence[Trial]) -> None:
    for embeddings in (train, val):
        embeddings.refuse_test("HSFM")
        check_embeddings(embeddings, embeddings.split or "embeddings")
    check_same_origin(train, val)
    if train.n_classes < 2:
        raise ValueError(f"classes: {', '.join(train.class_names)} is one class only; expected at least two")
    expected = (train.n_classes, train.features.shape[1])
    if head.weight.shape != expected:
        raise ValueError(f"head: weight is {list(head.weight.shape)}, expected {list(expected)} (classes, features)")
    if len({trial.shape for trial in trials}) != 1:
        raise ValueError(f"trials: none, or they differ in more than {', '.join(OF_TRIAL)}; cannot go side by side")
    counts = torch.bincount(train.y, minlength=train.n_classes).tolist()
    per_class, draw = trials[0].settings.support_per_class, trials[0].settings.support_draw
    for name, count in zip(train.class_names, counts, strict=True):
        if draw == "per_class" and count < per_class:
            log.warning("support_per_class is %d; class %s has %d images: taking all", per_class, name, count)

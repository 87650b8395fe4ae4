"""HSFM: learn edits of a few support features so that a head adapted on them does well on hard samples.

Source: arXiv 2603.29313. Letters: r trials, n support rows, d features, c classes, m hard samples, e epochs. The
paper's symbols stand beside the settings of `train`; hsfm/methods/hsfm/outer_loop.py is the loop itself.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from hsfm.core.progress import Progress
from hsfm.features.embeddings import Embeddings, check_embeddings, check_same_origin
from hsfm.heads.hard_set import HardSet
from hsfm.heads.head import Head
from hsfm.methods.hsfm.outer_loop import CLIP_NORM, BestState, Loop, Shared, Trial, chosen_rows, part_of
from hsfm.methods.hsfm.support import Support
from hsfm.methods.hsfm.support import write_support as write_rows

log = logging.getLogger(__name__)

CHOICES = {
    "refresh": ("epoch", "never"),
    "outer_set": ("hard", "random"),
    "gradient": ("full", "first_order"),
    "support_draw": ("per_class", "uniform"),
}
SELECT_BY = {  # in words
    "worst_group": "the epoch with the best validation worst group",
    "worst_class": "the epoch with the best validation worst class",
    "hard_loss": "the epoch with the lowest loss on its hard set",
}
DEAD = "hardly moved from ERM's head"
DEAD_SHARE = 0.005  # a kept head that changes fewer validation predictions than this has hardly moved
MEMORY_BUDGET = 4 * 2**30  # bytes


@dataclass(frozen=True)
class MetaResult:
    """All tensors lie on the CPU."""

    head: Head  # the kept heads, weight [r c d], bias [r c]; NaN where kept_epoch is 0
    trials: tuple[Trial, ...]
    kept_epoch: Int[Tensor, " r"]  # from 1; 0 where every epoch had a loss that is not finite
    history: pd.DataFrame  # one row per trial and epoch, see `train`
    hard_parts: Int[Tensor, "r e p"]  # images of each part of val (`outer_loop.part_of`) in the epochs' hard sets
    support_rows: Int[Tensor, "r n"]  # rows of the training embeddings
    support_id: tuple[tuple[str, ...], ...]  # their image ids, per trial
    support_y: Int[Tensor, "r n"]
    support_after: Float[Tensor, "r n d"]  # those rows' features as edited at the kept epoch
    head_change: Float[Tensor, " r"]  # |W - W0| / |W0| of the kept head
    moved: Float[Tensor, " r"]  # share of validation predictions that differ from the ERM head's

    @property
    def dead(self) -> Bool[Tensor, " r"]:
        """Trials whose kept head hardly moved."""
        return self.moved < DEAD_SHARE

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings for readers about each trial's head; empty where there are none."""
        return tuple(DEAD if dead else "" for dead in self.dead.tolist())

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(trial.seed for trial in self.trials)


def train(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    *,
    seeds: Sequence[int],
    support_per_class: int,
    inner_steps: int,
    inner_lr: float,
    outer_lr: float,
    support_steps: int,
    hard_per_class: int,
    epochs: int,
    refresh: str = "epoch",
    outer_set: str = "hard",
    gradient: str = "full",
    support_draw: str = "per_class",
    select_by: str = "worst_group",
    clip_norm: float = CLIP_NORM,
    first_hard_set: HardSet | None = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = True,
) -> MetaResult:
    """Meta-train the support of each seed and return the heads adapted on it.

    train, val: embeddings of one checkpoint. Features and classes of both are trained on, val being the pool of hard
    samples. Group labels of val serve `select_by="worst_group"` alone, and with the attributes of train the diagnosis
    `minority_share`. head: ERM's, weight `[c d]`.

    support_per_class: support rows drawn per class; a smaller class gives all it has. inner_steps (T) and inner_lr
    (alpha): gradient steps of the head on the support. outer_lr (eta): Adam's, on the support. support_steps (K_H):
    meta-gradient steps per epoch; 0 leaves the support as drawn. hard_per_class (K_hard): hard samples per class.
    refresh: choose the outer set anew each `epoch` (the paper) or `never`. outer_set: the `hard` samples (the paper) or
    as many `random` ones per class. gradient: through all inner steps, `full` (the paper), or `first_order`.
    support_draw: as many rows `per_class` (the paper), or that number in all, `uniform` over train. select_by: keep the
    epoch with the best validation `worst_group` (the paper) or `worst_class` accuracy, or the lowest mean loss on the
    head's own hard set (`hard_loss`); the later epoch wins a tie. clip_norm: longest meta-gradient of a trial's
    support. first_hard_set: the choice of the first epoch, which is otherwise made here by the same rule.
    memory_budget: bytes that trials side by side may take; more trials go one batch after the other. progress: show a
    bar on a terminal.

    The history holds per seed and epoch: outer_loss (mean over the epoch's meta-gradient steps, natural log; NaN
    without any), hard_loss (of the epoch's head on its own hard set), val_average, val_worst_group (NaN without
    groups), val_worst_class, minority_share (of the epoch's hard set; NaN where attributes are unknown),
    pool_minority_share (the same of all of val) and kept.

    Raises ValueError for a setting out of range, embeddings or a head that do not belong together, and missing groups
    where they select.
    """
    if not len(seeds) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is empty or repeats a seed")
    trials = [Trial(seed, inner_lr, outer_lr, clip_norm) for seed in seeds]
    shared = Shared(
        support_per_class,
        inner_steps,
        support_steps,
        hard_per_class,
        epochs,
        refresh,
        outer_set,
        gradient,
        support_draw,
    )
    result = train_trials(
        train, val, head, trials, shared,
        select_by=[select_by], first_hard_set=first_hard_set, memory_budget=memory_budget, progress=progress,
    )[select_by]  # fmt: skip
    for trial, epoch in zip(trials, result.kept_epoch.tolist(), strict=True):
        if epoch == 0:
            raise ValueError(
                f"inner_lr {inner_lr}, outer_lr {outer_lr}: seed {trial.seed} diverged, no epoch has a finite loss; "
                "lower one of them"
            )
    _report(result)
    return result


def train_trials(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    trials: Sequence[Trial],
    shared: Shared,
    *,
    select_by: Sequence[str] = ("worst_group",),
    first_hard_set: HardSet | None = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: bool = True,
) -> dict[str, MetaResult]:
    """Meta-train many trials side by side; settings, history and errors as in `train`, whose `seed` may repeat here.

    The training is the same whatever rule chooses the epoch, so that the results of several rules, by their names, cost
    one. The history's column `number` counts the trials. Each trial is what it would be alone, up to rounding. A trial
    whose every epoch diverged is no error here: its kept_epoch is 0 and its head NaN. The results, which are not part
    of `memory_budget`, are gathered on the CPU.
    """
    head = Head(head.weight.detach(), head.bias.detach())
    _check(train, val, head, trials, shared, select_by, first_hard_set)
    _say_small_classes(train, shared)
    generators = [Generator().manual_seed(trial.seed) for trial in trials]
    rows = torch.stack([_draw(train, shared, generator) for generator in generators])
    outer_rows = _outer_rows(val, shared, first_hard_set, generators)
    size = trials_that_fit(train, val, shared, rules=len(select_by), memory_budget=memory_budget)
    batches = [slice(i, i + size) for i in range(0, len(trials), size)]
    parts: dict[str, list[_Part]] = {rule: [] for rule in select_by}
    histories, hard_parts = [], []
    with Progress("HSFM", shared.epochs * len(batches), "epoch", shown=progress) as bar:
        for batch in batches:
            loop = Loop(
                train, val, head, trials[batch], shared,
                rows=rows[batch], outer_rows=None if outer_rows is None else outer_rows[:, batch], select_by=select_by,
            )  # fmt: skip
            loop.train(bar.update)
            histories.append(loop.history)
            hard_parts.append(loop.hard_parts.transpose(0, 1).cpu())
            for rule, best in loop.best.items():
                parts[rule].append(_part(best, head, val))
    history = {name: torch.cat([h[name] for h in histories], dim=1).T.cpu() for name in histories[0]}  # [r e]
    return {rule: _result(train, trials, rows, parts[rule], history, torch.cat(hard_parts)) for rule in select_by}


@dataclass(frozen=True)
class _Part:
    """The part of a result from one batch of trials, on the CPU."""

    head: Head
    kept_epoch: Int[Tensor, " r"]
    support: Float[Tensor, "r n d"]
    head_change: Float[Tensor, " r"]
    moved: Float[Tensor, " r"]


def _part(best: BestState, erm: Head, val: Embeddings) -> _Part:
    diverged = best.epoch == 0
    head = Head(
        best.weight.masked_fill(diverged.view(-1, 1, 1), torch.nan),
        best.bias.masked_fill(diverged.view(-1, 1), torch.nan),
    )
    moved = (head.predict(val.features) != erm.predict(val.features)).float().mean(dim=1)
    return _Part(
        head=head.to(torch.device("cpu")),
        kept_epoch=best.epoch.cpu(),
        support=best.support.cpu(),
        head_change=((head.weight - erm.weight).flatten(1).norm(dim=1) / erm.weight.norm()).cpu(),
        moved=moved.masked_fill(diverged, torch.nan).cpu(),
    )


def _draw(train: Embeddings, shared: Shared, generator: Generator) -> Int[Tensor, " n"]:
    if shared.support_draw == "per_class":
        return draw_per_class(train.y, shared.support_per_class, train.n_classes, generator)
    size = int(torch.bincount(train.y, minlength=train.n_classes).clamp(max=shared.support_per_class).sum())
    return torch.randperm(len(train.y), generator=generator)[:size].to(train.y.device)


def _outer_rows(
    val: Embeddings, shared: Shared, first_hard_set: HardSet | None, generators: Sequence[Generator]
) -> Int[Tensor, "_ r m"] | None:
    """The rows that `Loop` takes: the given choice for the first epoch, or a random one for each."""
    if shared.outer_set == "hard":
        return None if first_hard_set is None else chosen_rows(first_hard_set, val).expand(1, len(generators), -1)
    epochs = shared.epochs if shared.refresh == "epoch" else 1
    drawn = [
        torch.stack([draw_per_class(val.y, shared.hard_per_class, val.n_classes, g) for _ in range(epochs)])
        for g in generators
    ]
    return torch.stack(drawn, dim=1)


def _result(
    train: Embeddings,
    trials: Sequence[Trial],
    rows: Int[Tensor, "r n"],
    parts: Sequence[_Part],
    history: dict[str, Float[Tensor, "r e"]],
    hard_parts: Int[Tensor, "r e p"],
) -> MetaResult:
    kept_epoch = torch.cat([part.kept_epoch for part in parts])
    return MetaResult(
        head=Head(torch.cat([part.head.weight for part in parts]), torch.cat([part.head.bias for part in parts])),
        trials=tuple(trials),
        kept_epoch=kept_epoch,
        history=_history(history, trials, kept_epoch),
        hard_parts=hard_parts,
        support_rows=rows.cpu(),
        support_id=tuple(tuple(train.image_id[i] for i in chosen) for chosen in rows.tolist()),
        support_y=train.y[rows].cpu(),
        support_after=torch.cat([part.support for part in parts]),
        head_change=torch.cat([part.head_change for part in parts]),
        moved=torch.cat([part.moved for part in parts]),
    )


def draw_per_class(y: Int[Tensor, " n"], per_class: int, n_classes: int, generator: Generator) -> Int[Tensor, " k"]:
    """Rows of `per_class` random images of each class, or all of a smaller one; `generator` is on the CPU.

    Classes ascend; within each, one permutation of its rows in table order is drawn and cut.
    """
    chosen = []
    for label in range(n_classes):
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:per_class].to(members.device)])
    return torch.cat(chosen)


def hard_groups(result: MetaResult, val: Embeddings) -> pd.DataFrame:
    """Contents of the hard sets: seed, epoch, y, attribute (null where unknown) and n, of every pair in val."""
    here = torch.bincount(part_of(val).cpu(), minlength=result.hard_parts.shape[2]).nonzero().squeeze(1)
    n_epochs = result.hard_parts.shape[1]
    part = np.tile(here.numpy(), len(result.trials) * n_epochs)
    y, attribute = np.divmod(part, val.n_attributes + 1)
    unknown = attribute == val.n_attributes
    return pd.DataFrame(
        {
            "seed": np.repeat(result.seeds, n_epochs * len(here)),
            "epoch": np.tile(np.arange(1, n_epochs + 1).repeat(len(here)), len(result.trials)),
            "y": y,
            "attribute": pd.array(attribute, "Int64"),
            "n": result.hard_parts[..., here].flatten().numpy().astype(np.int64),
        }
    ).assign(attribute=lambda frame: frame["attribute"].mask(unknown))


def write_support(path: str | Path, result: MetaResult, train: Embeddings) -> None:
    """Write the support rows of every seed before and after the edits."""
    n = result.support_rows.shape[1]
    support = Support(
        seed=tuple(seed for seed in result.seeds for _ in range(n)),
        image_id=tuple(name for names in result.support_id for name in names),
        y=result.support_y.flatten(),
        before=train.features.cpu()[result.support_rows].flatten(0, 1),
        after=result.support_after.flatten(0, 1),
        checkpoint_sha256=train.checkpoint_sha256,
    )
    write_rows(path, support, dataset=train.dataset, class_names=train.class_names)


def trials_that_fit(
    train: Embeddings, val: Embeddings, shared: Shared, *, rules: int = 1, memory_budget: int = MEMORY_BUDGET
) -> int:
    """How many trials go side by side within so many bytes, at least one; by an upper estimate.

    Of the support: itself, gradient, Adam's moments, its first state, temporaries, and a kept state per rule; its
    products with itself; the hard features; the logits of val and what follows from them; the counts of its parts.
    """
    d, item = train.features.shape[1], train.features.element_size()
    n = min(shared.support_per_class * train.n_classes, len(train.y))
    m = min(shared.hard_per_class * val.n_classes, len(val.y))
    counts = 2 * 4 * shared.epochs * val.n_classes * (val.n_attributes + 1)
    each = counts + item * ((8 + rules) * n * d + 2 * m * d + 6 * len(val.y) * val.n_classes + 2 * n * n)
    return max(1, memory_budget // each)


def _say_small_classes(train: Embeddings, shared: Shared) -> None:
    if shared.support_draw != "per_class":
        return
    for label, count in enumerate(torch.bincount(train.y, minlength=train.n_classes).tolist()):
        if count < shared.support_per_class:
            log.warning(
                "support_per_class is %d; class %s has %d images: taking all",
                shared.support_per_class, train.class_names[label], count,
            )  # fmt: skip


def _history(
    measures: dict[str, Float[Tensor, "r e"]], trials: Sequence[Trial], kept: Int[Tensor, " r"]
) -> pd.DataFrame:
    """A row per trial and epoch, trial after trial."""
    n_trials, epochs = measures["val_average"].shape
    epoch = torch.arange(1, epochs + 1).expand(n_trials, -1)
    return pd.DataFrame(
        {
            "number": torch.arange(n_trials).repeat_interleave(epochs).numpy(),
            "seed": [trial.seed for trial in trials for _ in range(epochs)],
            "epoch": epoch.flatten().numpy(),
            **{name: values.flatten().numpy() for name, values in measures.items()},
            "kept": (epoch == kept.unsqueeze(1)).flatten().numpy(),
        }
    )


def _report(result: MetaResult) -> None:
    """One line per seed for the log, and a warning for a head that hardly moved."""
    kept = result.history[result.history["kept"]]
    for row, dead, moved, change in zip(
        kept.itertuples(), result.dead.tolist(), result.moved.tolist(), result.head_change.tolist(), strict=True
    ):
        log.info(
            "seed %d: kept epoch %d, validation average %.1f, worst group %.1f",
            row.seed, row.epoch, 100 * row.val_average, 100 * row.val_worst_group,
        )  # fmt: skip
        if dead:
            log.warning(
                "seed %d: the head hardly moved (%.1f %% of the validation predictions differ from ERM's, the weights "
                "changed by %.1f %%). The support may be dead: it holds no minority image, or ERM fits it already. "
                "Raise support_per_class or inner_lr.",
                row.seed, 100 * moved, 100 * change,
            )  # fmt: skip


def _check(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    trials: Sequence[Trial],
    shared: Shared,
    select_by: Sequence[str],
    first_hard_set: HardSet | None,
) -> None:
    for embeddings in (train, val):
        embeddings.refuse_test("HSFM")
        check_embeddings(embeddings, embeddings.split or "embeddings")
    check_same_origin(train, val)
    if train.n_classes < 2:
        raise ValueError(f"classes: {', '.join(train.class_names)} is one class only; expected at least two")
    for name, tensor, expected in (
        ("weight", head.weight, (train.n_classes, train.features.shape[1])), ("bias", head.bias, (train.n_classes,))
    ):  # fmt: skip
        if tensor.shape != expected:
            raise ValueError(f"head: {name} is {list(tensor.shape)}, expected {list(expected)} (classes, features)")
        if not tensor.isfinite().all():
            raise ValueError(f"head: {name} holds a NaN or an infinity")
    for what, dtype in (("val features", val.features.dtype), ("head", head.weight.dtype)):
        if dtype != train.features.dtype:
            raise ValueError(f"{what}: {dtype}, but the train features are {train.features.dtype}")
    if not trials:
        raise ValueError("trials: there is none")
    for name, least in (
        ("support_per_class", 1), ("inner_steps", 1), ("hard_per_class", 1), ("epochs", 1), ("support_steps", 0)
    ):  # fmt: skip
        value = getattr(shared, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: {value!r} is not a whole number from {least}")
    for trial in trials:
        if not isinstance(trial.seed, Integral) or trial.seed < 0:
            raise ValueError(f"seed: {trial.seed!r} is not a whole number from 0")
        for name in ("inner_lr", "outer_lr", "clip_norm"):
            value = getattr(trial, name)
            if not isinstance(value, Real) or not 0 < value < float("inf"):
                raise ValueError(f"{name}: {value!r} is not a positive number")
    _check_first_hard_set(first_hard_set, val, shared)
    named = [(name, getattr(shared, name), allowed) for name, allowed in CHOICES.items()]
    for name, value, allowed in [*named, *(("select_by", rule, SELECT_BY) for rule in select_by)]:
        if value not in allowed:
            raise ValueError(f"{name}: {value!r} is unknown; allowed are {', '.join(allowed)}")
    if "worst_group" in select_by:
        val.require_attributes('select_by="worst_group"')


def _check_first_hard_set(first_hard_set: HardSet | None, val: Embeddings, shared: Shared) -> None:
    if first_hard_set is None:
        return
    if shared.outer_set == "random":
        raise ValueError("first_hard_set: is given, but outer_set is 'random'")
    if first_hard_set.image_id != val.image_id:
        raise ValueError("first_hard_set: lists other images than val")
    chosen = torch.bincount(val.y.cpu()[first_hard_set.chosen.cpu()], minlength=val.n_classes).tolist()
    sizes = torch.bincount(val.y, minlength=val.n_classes).tolist()
    for name, found, size in zip(val.class_names, chosen, sizes, strict=True):
        if found != min(size, shared.hard_per_class):
            raise ValueError(
                f"first_hard_set: chooses {found} images of class {name}, but hard_per_class is "
                f"{shared.hard_per_class} of {size}"
            )

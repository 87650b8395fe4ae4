"""Sweep over HSFM's settings, many side by side; selected on validation, reported on test."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hsfm.core.metrics import accuracy_by, worst
from hsfm.core.progress import Progress
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.hsfm.train import MEMORY_BUDGET, MetaResult, Shared, Trial, train_trials, trials_that_fit

OF_SHARED = ("inner_steps", "support_steps", "hard_per_class", "support_per_class")
OF_TRIAL = ("inner_lr", "outer_lr")
SETTINGS = (*OF_SHARED, *OF_TRIAL)  # what may be swept
MEASURES = ("average", "worst_group", "worst_class")
COLUMNS = [
    "setting", *SETTINGS, "seed", "rule", "kept_epoch", "moved",
    *(f"{split}_{measure}" for split in ("val", "test") for measure in MEASURES),
]  # fmt: skip


@dataclass(frozen=True)
class SweepTrial:
    """One setting with one seed."""

    number: int  # of the setting
    trial: Trial
    shared: Shared


def combinations(
    base: Mapping[str, Any], values: Mapping[str, Sequence[int | float] | None], *, draws: int | None, seed: int
) -> list[dict[str, int | float]]:
    """Settings to try: `base` first, then every combination of `values`, or `draws` different random ones.

    base: all of SETTINGS; values: lists for some of them; the others, and those with None, stay at base. A combination
    that is base itself is not tried twice. draws: None, or a number at or above that of the combinations, means all.

    Raises ValueError for an unknown setting, an empty or repeating list, and fewer than one draw.
    """
    values = {name: listed for name, listed in values.items() if listed is not None}
    for name, listed in values.items():
        if name not in SETTINGS:
            raise ValueError(f"values: unknown setting {name!r}; allowed are {', '.join(SETTINGS)}")
        if not len(listed) or len(set(listed)) != len(listed):
            raise ValueError(f"values: {name} lists {list(listed)}, which is empty or repeats a value")
    if draws is not None and draws < 1:
        raise ValueError(f"draws: {draws} is not a positive whole number")
    sizes = [len(listed) for listed in values.values()]
    total = math.prod(sizes)
    if draws is None or draws >= total:
        picks = itertools.product(*values.values())
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(total, draws, replace=False))
        places = np.stack(np.unravel_index(chosen, sizes), axis=1).tolist()
        picks = [[listed[i] for listed, i in zip(values.values(), place, strict=True)] for place in places]
    start = {name: base[name] for name in SETTINGS}
    tried = [start | dict(zip(values, pick, strict=True)) for pick in picks]
    return [start, *(setting for setting in tried if setting != start)]


def sweep_trials(
    combined: Sequence[Mapping[str, int | float]], *, seeds: Sequence[int], fixed: Mapping[str, Any]
) -> list[list[SweepTrial]]:
    """The trials of all settings and seeds, in groups that can go side by side.

    fixed: what HSFM is told besides SETTINGS: epochs, refresh, outer_set, gradient, support_draw. Raises ValueError for
    no seed or a repeated one.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is empty or repeats a seed")
    groups: dict[Shared, list[SweepTrial]] = {}
    for number, setting in enumerate(combined):
        shared = Shared(**{name: setting[name] for name in OF_SHARED}, **fixed)
        for seed in seeds:
            trial = Trial(seed, **{name: float(setting[name]) for name in OF_TRIAL})
            groups.setdefault(shared, []).append(SweepTrial(number, trial, shared))
    return list(groups.values())


def plan_sweep(
    base: Mapping[str, Any],
    *,
    values: Mapping[str, Sequence[int | float] | None],
    draws: int | None,
    seed: int,
    seeds: Sequence[int],
) -> list[list[SweepTrial]]:
    """The trials of a sweep around `base`, all settings of HSFM. The rest: as in `combinations` and `sweep_trials`."""
    fixed = {name: value for name, value in base.items() if name not in (*SETTINGS, "select_by")}
    return sweep_trials(combinations(base, values, draws=draws, seed=seed), seeds=seeds, fixed=fixed)


def share_out(groups: Sequence[Sequence[SweepTrial]], parts: int) -> list[list[list[SweepTrial]]]:
    """Groups for each of some jobs that then take about as long; a group too long for one job is cut."""
    fair = -(-sum(map(len, groups)) // parts)
    pieces = [list(group[i : i + fair]) for group in groups for i in range(0, len(group), fair)]
    jobs: list[list[list[SweepTrial]]] = [[] for _ in range(parts)]
    work = [0] * parts
    for piece in sorted(pieces, key=_work, reverse=True):
        least = work.index(min(work))
        jobs[least].append(piece)
        work[least] += _work(piece)
    return jobs


def _work(group: Sequence[SweepTrial]) -> int:
    """In meta-gradients times their steps; the first trial counts for three: most of its time is the same for more."""
    shared = group[0].shared
    return (2 + len(group)) * (1 + shared.support_steps) * shared.inner_steps


def sweep_settings(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    head: Head,
    groups: Sequence[Sequence[SweepTrial]],
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> pd.DataFrame:
    """One row per trial and rule that picks the epoch: the trial's accuracies on val and test.

    The rules are worst_class and, where all attributes of val and test are known, worst_group. groups: lists of trials
    that share their `shared`. Columns: setting (its number), the six SETTINGS, seed, rule, kept_epoch, moved, and
    {val, test}_{average, worst_group, worst_class}; worst_group is NaN without groups. Nothing is chosen on test. A
    trial of which every epoch diverged has kept_epoch 0 and NaN. Trials that do not fit into `memory_budget` bytes side
    by side go one batch after the other.
    """
    grouped = all(bool((split.attribute >= 0).all()) for split in (val, test))
    select_by = ["worst_group", "worst_class"] if grouped else ["worst_class"]
    rows = []
    with Progress("sweep", sum(map(len, groups)), "trial") as bar:
        for group in groups:
            shared = group[0].shared
            size = trials_that_fit(train, val, shared, rules=len(select_by), memory_budget=memory_budget)
            for batch in (group[i : i + size] for i in range(0, len(group), size)):
                results = train_trials(
                    train, val, head, [entry.trial for entry in batch], shared,
                    select_by=select_by, memory_budget=memory_budget, progress=False,
                )  # fmt: skip
                for rule, result in results.items():
                    rows += _rows(batch, rule, result, val, test)
                bar.update(len(batch))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.sort_values(["setting", "seed", "rule"], kind="stable", ignore_index=True)


def _rows(batch: Sequence[SweepTrial], rule: str, result: MetaResult, val: Embeddings, test: Embeddings) -> list[dict]:
    measures = {
        f"{split}_{name}": values.tolist()
        for split, embeddings in (("val", val), ("test", test))
        for name, values in accuracies(result.head.to(embeddings.y.device), embeddings).items()
    }
    measures |= {"kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist()}
    return [
        {
            "setting": entry.number,
            **{name: getattr(entry.shared, name) for name in OF_SHARED},
            **{name: getattr(entry.trial, name) for name in OF_TRIAL},
            "seed": entry.trial.seed,
            "rule": rule,
            **{name: values[i] for name, values in measures.items()},
        }
        for i, entry in enumerate(batch)
    ]


def accuracies(head: Head, embeddings: Embeddings) -> dict[str, Float[Tensor, "*s"]]:
    """MEASURES of each head, as fractions; NaN for a head that is, and worst_group where a group is unknown."""
    correct = head.predict(embeddings.features) == embeddings.y
    values = {
        "average": correct.double().mean(-1),
        "worst_group": worst(accuracy_by(correct, embeddings.group, embeddings.n_groups)),
        "worst_class": worst(accuracy_by(correct, embeddings.y, embeddings.n_classes)),
    }
    if (embeddings.group < 0).any():
        values["worst_group"] = torch.full_like(values["average"], torch.nan)
    sound = head.weight.isfinite().all(-1).all(-1) & head.bias.isfinite().all(-1)
    return {name: value.where(sound, torch.nan) for name, value in values.items()}

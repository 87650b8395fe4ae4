"""Sweep over HSFM's settings, many side by side; selected on validation, reported on test."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveInt, create_model
from pydantic.fields import FieldInfo
from torch import Tensor

from hsfm.core.progress import Progress, quiet
from hsfm.core.settings import SOME, FrozenSettings, Unlike
from hsfm.features.embeddings import Embeddings
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm.outer_loop import Settings, Trial
from hsfm.methods.hsfm.train import MEMORY_BUDGET, MetaResult, train_trials, trials_that_fit

MEASURES = ("average", "worst_group", "worst_class")

# the settings with values worth trying, by name
FIELDS = Settings.model_fields | HardSetSettings.model_fields
SWEPT = {name: field for name, field in sorted(FIELDS.items()) if "sweep" in (field.json_schema_extra or {})}
Group = list[tuple[int, Trial]]  # number of the setting, and a trial of it; trials of one shape
COLUMNS = [
    "setting", *SWEPT, "seed", "rule", "kept_epoch", "moved",
    *(f"{split}_{measure}" for split in ("val", "test") for measure in MEASURES),
]  # fmt: skip


def _values(field: FieldInfo) -> tuple:
    values = Annotated[tuple[Annotated[field.annotation, *field.metadata], ...], SOME, Unlike]
    return values | None, Field(tuple(field.json_schema_extra["sweep"]), description=field.description)


Values = create_model(
    "Values",
    __base__=FrozenSettings,
    __doc__="Lists of values by setting; with null a setting stays as configured.",
    **{name: _values(field) for name, field in SWEPT.items()},
)


class SweepSettings(FrozenSettings):
    """HSFM under many settings, judged on validation."""

    draws: PositiveInt | None = Field(200, description="Random combinations of the values; null for all of them.")
    seed: NonNegativeInt = Field(0, description="Of the random combinations.")
    seeds: Annotated[tuple[NonNegativeInt, ...], SOME, Unlike] = Field(
        (0,), description="Seeds of HSFM under each setting."
    )
    parts: PositiveInt = Field(2, description="Jobs that share the work; one per core or GPU.")
    values: Values = Field(Values(), description=Values.__doc__)


def combinations(
    base: Mapping[str, int | float], values: Mapping[str, Sequence[int | float] | None], *, draws: int | None, seed: int
) -> list[dict[str, int | float]]:
    """Settings to try: `base` first, then every other combination of `values`, or `draws` different random ones.

    base: all of SWEPT; values: lists for some of them; the others, and those with None, stay at base. draws: None, or a
    number at or above that of the combinations, means all.
    """
    values = {name: listed for name, listed in values.items() if listed is not None}
    picks = list(itertools.product(*values.values()))
    if draws is not None and draws < len(picks):
        picks = [picks[i] for i in np.sort(np.random.default_rng(seed).choice(len(picks), draws, replace=False))]
    tried = [dict(base) | dict(zip(values, pick, strict=True)) for pick in picks]
    return [dict(base), *(setting for setting in tried if setting != base)]


def plan_sweep(settings: Settings, hard_per_class: int, sweep: SweepSettings) -> list[Group]:
    """The trials of a sweep around some settings, in groups that can go side by side; nothing is tuned.

    Where HSFM tunes itself, the settings that it would choose are those of `tune: null`.
    """
    if settings.tune is not None:
        settings = Settings(**{**dict(settings), "tune": None, "max_edit": None})
    base = {name: getattr(settings, name, hard_per_class) for name in SWEPT}
    groups: dict[tuple, Group] = {}
    for number, setting in enumerate(combinations(base, dict(sweep.values), draws=sweep.draws, seed=sweep.seed)):
        k_hard = setting.pop("hard_per_class")
        tried = Settings(**{**dict(settings), **setting})
        for seed in sweep.seeds:
            trial = Trial(seed, tried, k_hard)
            groups.setdefault(trial.shape, []).append((number, trial))
    return list(groups.values())


def share_out(groups: Sequence[Group], parts: int) -> list[list[Group]]:
    """Groups for each of some jobs that then take about as long; a group too long for one job is cut."""

    def work(group: Group) -> int:
        # in meta-gradients times their steps; the first trial counts for three: most of its time is the same for more
        shared = group[0][1].settings
        return (2 + len(group)) * (1 + shared.support_steps) * shared.inner_steps

    fair = -(-sum(map(len, groups)) // parts)
    pieces = [group[i : i + fair] for group in groups for i in range(0, len(group), fair)]
    pieces.sort(key=work, reverse=True)
    return [pieces[part::parts] for part in range(parts)]


def sweep_settings(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    head: Head,
    groups: Sequence[Group],
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> pd.DataFrame:
    """One row per trial and rule that picks the epoch on val: COLUMNS, with the accuracies on val and test.

    The rules are worst_class and, where all attributes of val and test are known, worst_group; without groups
    worst_group is NaN. groups go side by side as far as they fit into `memory_budget` bytes. A trial of which every
    epoch diverged has kept_epoch 0 and NaN.
    """
    grouped = all(bool((split.attribute >= 0).all()) for split in (val, test))
    scorers = {rule: Scorer(val, rule) for rule in (("worst_group", "worst_class") if grouped else ("worst_class",))}
    rows = []
    with Progress("sweep", sum(map(len, groups)), "trial") as bar:
        for group in groups:
            size = trials_that_fit(train, val, group[0][1], kept=len(scorers), memory_budget=memory_budget)
            for batch in (group[i : i + size] for i in range(0, len(group), size)):
                trials = [trial for _, trial in batch]
                with quiet():
                    results = train_trials(train, val, head, trials, scorers=scorers, memory_budget=memory_budget)
                for rule, result in results.items():
                    rows += _rows(batch, rule, result, val, test)
                bar.update(len(batch))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.sort_values(["setting", "seed", "rule"], kind="stable", ignore_index=True)


def _rows(batch: Group, rule: str, result: MetaResult, val: Embeddings, test: Embeddings) -> list[dict]:
    measures = {"kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist()}
    for split, embeddings in (("val", val), ("test", test)):
        found = accuracies(result.head.to(embeddings.y.device), embeddings)
        measures |= {f"{split}_{name}": values.tolist() for name, values in found.items()}
    return [
        {
            **{"setting": number, "seed": trial.seed, "rule": rule},
            **{name: getattr(trial.settings, name, trial.hard_per_class) for name in SWEPT},
            **{name: values[i] for name, values in measures.items()},
        }
        for i, (number, trial) in enumerate(batch)
    ]


def accuracies(head: Head, embeddings: Embeddings) -> dict[str, Float[Tensor, "*s"]]:
    """MEASURES of each head, as fractions; NaN for a head that is, and worst_group where a group is unknown."""
    measures = Scorer(embeddings, "average").measures(head.logits(embeddings.features))
    values = {name: measures[f"val_{name}"] for name in MEASURES}
    if (embeddings.group < 0).any():
        values["worst_group"] = torch.full_like(values["average"], torch.nan)
    sound = head.weight.isfinite().all(-1).all(-1) & head.bias.isfinite().all(-1)
    return {name: value.where(sound, torch.nan) for name, value in values.items()}

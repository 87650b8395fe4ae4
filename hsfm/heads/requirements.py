"""Requirements of scorer and methods on labels, checked on the labels alone, before anything is trained or fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hsfm.core.text import few
from hsfm.data.table import SPLITS, ImageTable, group_name
from hsfm.features.embeddings import Embeddings, NotApplicable
from hsfm.heads.method_settings import Groups, Halves
from hsfm.heads.scorer import OF_GROUPS
from hsfm.models.holdout import hold_out


@dataclass(frozen=True)
class Requirement:
    """Needs of one row of the tables, by its settings."""

    label: str  # of its method
    select_by: str | None  # rule of the scorer
    groups: Groups = "none"  # splits whose group labels it trains on
    halves: Halves = "none"
    extra: tuple[str, ...] = ()  # names in val's `Embeddings.extra`


def check_labels(splits: Mapping[str, Embeddings], rows: Mapping[str, Requirement]) -> dict[str, str]:
    """Reasons by row why it is going to be left out, for those that are.

    splits: train and val; their features are not read. Raises ValueError where the scorer of a row lacks its groups,
    which would stop its fit.
    """
    chosen = {row: asked.select_by for row, asked in rows.items() if asked.select_by in OF_GROUPS}
    if chosen:
        try:
            splits["val"].require_attributes(
                f"select_by: {' or '.join(sorted({*chosen.values()}))} ({few(list(chosen))})"
            )
        except NotApplicable as error:
            raise ValueError(f"{error}; give it, or set select_by to worst_class") from error
    if "worst_group" in chosen.values():
        largest = int(torch.bincount(splits["val"].group).max())
        if largest < splits["val"].min_group:
            asked_for = f"embeddings/min_group: is {splits['val'].min_group}"
            raise ValueError(f"{asked_for}, but the largest group of validation has {largest} images")
    reasons = {row: _lacking(splits, asked) for row, asked in rows.items()}
    return {row: reason for row, reason in reasons.items() if reason}


def _lacking(splits: Mapping[str, Embeddings], asked: Requirement) -> str:
    try:
        for split in {"none": (), "both": ("train", "val")}.get(asked.groups, (asked.groups,)):
            splits[split].require_attributes(asked.label)
        splits["val"].require_extra(asked.label, asked.extra)
    except NotApplicable as error:
        return str(error)
    return _alone(splits["val"], asked)


def _alone(val: Embeddings, asked: Requirement) -> str:
    """The group or class of validation that cannot be halved, in words; nothing where there is none."""
    if asked.halves == "none":
        return ""
    group = asked.halves == "group"
    _, first, count = np.unique(val.group if group else val.y, return_index=True, return_counts=True)
    if count.min() > 1:
        return ""
    row = int(first[count.argmin()])
    y, attribute = int(val.y[row]), int(val.attribute[row])
    name = group_name(val, y, attribute) if group else val.class_names[y]
    return f"{asked.label} halves every {asked.halves} of validation, but {name} has 1 image"


def check_numbers(names: Embeddings, numbers: Mapping[str, tuple[str, int]]) -> None:
    """Raise ValueError unless settings that give one number or text for each class, or attribute, have as many.

    numbers: by the place of the setting `class` or `attribute`, and how many it gives.
    """
    for where, (of_each, given) in numbers.items():
        expected = getattr(names, f"{of_each}_names")
        if given != len(expected):
            raise ValueError(f"{where}: has {given}, expected one for each {of_each}: {few(expected)}")


def check_holdout(train: Embeddings, share: float, runs: Sequence[int]) -> None:
    """Raise ValueError as `hold_out` does for any of the runs."""
    for run in runs:
        hold_out(train.y, share, run)


def labels_of(table: ImageTable, extra: Sequence[str] = (), min_group: int = 1) -> dict[str, Embeddings]:
    """The labels of an image table by split, as embeddings without features.

    extra, min_group: what its embeddings are going to have of these, extra by name and in val alone.
    """
    names = {key: getattr(table, key) for key in ("class_names", "attribute_names", "dataset")}
    found = {}
    for split in SPLITS:
        rows = table.split(split)
        found[split] = Embeddings(
            features=torch.empty(len(rows), 0),
            y=torch.tensor(rows["y"].to_numpy(np.int64)),
            attribute=torch.tensor(rows["attribute"].fillna(-1).to_numpy(np.int64)),
            image_id=tuple(rows["image_id"]),
            split=split,
            min_group=min_group,
            extra={name: torch.empty(len(rows), 0) for name in extra if split == "val"},
            **names,
        )
    return found

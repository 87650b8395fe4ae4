"""Groups of the validation split, of scores on them, and of the rows that a method trained on. Knows no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from hsfm.data.table import is_minority

KEYS = ["y", "attribute"]


def validation_groups(scores: pd.DataFrame) -> pd.DataFrame:
    """The groups that have validation images: y, attribute (-1 where unknown), group_name, n and minority.

    minority: None where attributes of train are unknown.
    """
    scores = scores[scores["run"] == scores["run"].iloc[0]].assign(attribute=lambda rows: rows["attribute"].fillna(-1))
    groups = scores[(scores["split"] == "val") & (scores["n"] > 0)].drop_duplicates(KEYS).sort_values(KEYS)
    train = scores[scores["split"] == "train"].drop_duplicates(KEYS)
    rare = {}
    if not (train.loc[train["n"] > 0, "attribute"] < 0).any():
        counts = train.pivot(index="y", columns="attribute", values="n").fillna(0).astype(np.int64)
        rare = pd.DataFrame(is_minority(counts.to_numpy()), counts.index, counts.columns).unstack().to_dict()
    minority = [rare.get(key) for key in zip(groups["attribute"], groups["y"], strict=True)]
    return groups[[*KEYS, "group_name", "n"]].assign(minority=minority)


def worst_by_run(scores: pd.DataFrame, method: str) -> dict[int, float]:
    """The lowest accuracy of a method on a group of validation, by run."""
    own = scores[(scores["method"] == method) & (scores["split"] == "val") & (scores["n"] > 0)]
    return own.groupby("run")["accuracy"].min().to_dict()


def count_groups(rows: Int[np.ndarray, "s e m"], seeds: Sequence[int], val: Any) -> pd.DataFrame:
    """Images by seed, epoch (from 1), y and attribute (null where unknown), of every pair that val has; n is 0 too."""
    part = (val.y * (val.n_attributes + 1) + val.attribute.where(val.attribute >= 0, val.n_attributes)).cpu().numpy()
    here = np.unique(part)
    counts = (part[rows][..., None] == here).sum(axis=2)  # [s e p]
    epochs = range(1, rows.shape[1] + 1)
    index = pd.MultiIndex.from_product([seeds, epochs, here], names=["seed", "epoch", "part"])
    frame = pd.Series(counts.flatten(), index, name="n").reset_index()
    y, attribute = np.divmod(frame.pop("part"), val.n_attributes + 1)
    frame.insert(2, "y", y)
    frame.insert(3, "attribute", attribute.astype("Int64").mask(attribute == val.n_attributes))
    return frame

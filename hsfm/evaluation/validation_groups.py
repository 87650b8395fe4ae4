"""Groups of the validation split, and ERM's accuracy on them, out of a table of scores. Knows no torch."""

import itertools

import numpy as np
import pandas as pd

from hsfm.core.minority import is_minority

KEYS = ["y", "attribute"]


def validation_groups(scores: pd.DataFrame) -> pd.DataFrame:
    """The groups that have validation images: y, attribute (-1 where unknown), group_name, n and minority.

    minority: None where attributes of train are unknown.
    """
    scores = scores[scores["run"] == scores["run"].iloc[0]].assign(attribute=lambda rows: rows["attribute"].fillna(-1))
    groups = scores[(scores["split"] == "val") & (scores["n"] > 0)].drop_duplicates(KEYS).sort_values(KEYS)
    train = scores[scores["split"] == "train"].drop_duplicates(KEYS).set_index(KEYS)["n"].astype(np.int64)
    rare: dict = {}
    if not (train[train > 0].index.get_level_values("attribute") < 0).any():
        counts = train.unstack(fill_value=0)
        keys = itertools.product(counts.index, counts.columns)
        rare = dict(zip(keys, is_minority(counts.to_numpy()).ravel().tolist(), strict=True))
    minority = [rare.get(key) for key in zip(groups["y"], groups["attribute"], strict=True)]
    return groups[[*KEYS, "group_name", "n"]].assign(minority=minority)


def worst_by_run(scores: pd.DataFrame, method: str) -> dict[int, float]:
    """The lowest accuracy of a method on a group of validation, by run."""
    own = scores[(scores["method"] == method) & (scores["split"] == "val") & (scores["n"] > 0)]
    return own.groupby("run")["accuracy"].min().to_dict()

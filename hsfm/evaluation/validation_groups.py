"""Groups of the validation split, and ERM's accuracy on them, out of a table of scores. Knows no torch."""

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

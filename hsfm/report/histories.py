"""Histories of all runs, read for figures."""

from collections.abc import Sequence

import pandas as pd
import pyarrow.parquet as pq

from hsfm.core.files import read_frames

ERM = ["epoch", "train_accuracy", "val_average", "val_worst_group", "kept"]
HARD_GROUPS = ["seed", "epoch", "y", "attribute", "n"]


def written(paths: Sequence[str]) -> list[str]:
    """Those that hold a table: of a method that is left out it is empty."""
    return [path for path in paths if pq.read_schema(path).names]


def read_histories(paths: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """One frame with the column `run`, which a path says: results/{dataset}/run{run}/..."""
    frame = read_frames(paths, columns)
    return frame.drop(columns="file").assign(run=frame["file"].str.extract(r"/run(\d+)/", expand=False).astype(int))


def read_training(method: str, paths: Sequence[str]) -> pd.DataFrame:
    """A method's history with one curve per run and seed: of several trials of a seed that of the kept head."""
    columns = ERM if method == "erm" else ["seed", "epoch", "val_worst_group", "val_worst_class", "kept"]
    trial = ["trial"] if "trial" in pq.read_schema(paths[0]).names else []
    history = read_histories(paths, [*columns, *trial])
    return history.merge(history.loc[history["kept"], ["run", "seed", "trial"]]) if trial else history


def read_hard_groups(paths: Sequence[str], groups: pd.DataFrame) -> pd.DataFrame:
    """Composition of hard sets with the columns run and group_name. groups: y, attribute (-1 unknown), group_name."""
    counts = read_histories(paths, HARD_GROUPS)
    return counts.assign(attribute=counts["attribute"].fillna(-1)).merge(groups[["y", "attribute", "group_name"]])

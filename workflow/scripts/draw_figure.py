"""Draw one figure of one dataset."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.data.decode import read_rgb
from hsfm.data.table import read_images
from hsfm.evaluation.scores import read_scores
from hsfm.report import figures

ERM = ["epoch", "train_accuracy", "val_average", "val_worst_group", "kept"]
OTHERS = ["seed", "epoch", "val_worst_group", "val_worst_class", "kept"]
AFR = ["gamma", "penalty", "step", "val_worst_group", "val_worst_class", "kept"]
MINORITY = ["seed", "epoch", "minority_share"]
HARD = ["seed", "epoch", "y", "attribute", "n"]
SHOWN = 8  # images of a group


def draw_figure(name: str, inputs: dict, dataset: str) -> Figure:
    if name == "examples":
        return examples(*inputs["images"], dataset)
    scores = pd.concat([read_scores(path) for path in inputs["scores"]], ignore_index=True)
    if name == "groups":
        return figures.draw_groups(scores, f"{dataset}: test accuracy by group")
    if name == "hard_set":
        return hard_set(scores, inputs, dataset)
    of_erm = scores[(scores["method"] == "erm") & (scores["split"] == "val") & (scores["n"] > 0)]
    return figures.draw_training(
        histories(inputs["erm"], ERM),
        {method: history_of(method, inputs[method]) for method in TRAINED if inputs.get(method)},
        of_erm.groupby("run")["accuracy"].min().to_dict(),
        f"{dataset}: training",
    )


TRAINED = ("afr", "dac", "ddb", "hsfm")  # methods with a history


def history_of(method: str, paths: list[str]) -> pd.DataFrame:
    if method != "afr":
        return histories(paths, OTHERS)
    pairs = histories(paths, AFR).assign(seed=0)
    kept = pairs.loc[pairs["kept"], ["run", "gamma", "penalty"]]
    return pairs.merge(kept)  # of all pairs that were tried, the one of the kept head


def histories(paths: list[str], columns: list[str]) -> pd.DataFrame | None:
    """The histories of all runs; the run is in the path."""
    frames = [read_frame(path, columns).assign(run=run_of(path)) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else None


def run_of(path: str) -> int:
    return next(int(part.removeprefix("run")) for part in Path(path).parts if re.fullmatch("run[0-9]+", part))


def hard_set(scores: pd.DataFrame, inputs: dict, dataset: str) -> Figure:
    scores = scores[scores["run"] == scores["run"].iloc[0]].assign(attribute=lambda rows: rows["attribute"].fillna(-1))
    keys = ["y", "attribute"]
    groups = scores[(scores["split"] == "val") & (scores["n"] > 0)].drop_duplicates(keys).sort_values(keys)
    train = scores[scores["split"] == "train"].drop_duplicates(keys)
    rare = minority(train.set_index(keys)["n"].astype(int))
    groups = groups.assign(minority=[rare.get(key) for key in zip(groups["y"], groups["attribute"], strict=True)])
    counts = histories(inputs["hard_groups"], HARD)
    counts = counts.assign(attribute=counts["attribute"].fillna(-1)).merge(groups[[*keys, "group_name"]], on=keys)
    title = f"{dataset}: what HSFM's hard set holds"
    return figures.draw_hard_set(counts, groups, histories(inputs["hsfm"], MINORITY), title)


def minority(n: pd.Series) -> dict[tuple[int, int], bool]:
    """Whether each attribute is rarer within its class than in all of train; nothing where some are unknown."""
    if (n[n > 0].index.get_level_values("attribute") < 0).any():
        return {}
    # p(a|y) < p(a), multiplied out so that equal shares compare as equal
    rarer = n * n.sum() < n.groupby("y").transform("sum") * n.groupby("attribute").transform("sum")
    return rarer.to_dict()


def examples(images: str, dataset: str) -> Figure:
    table = read_images(images)
    rows = table.split("train")
    folder = Path(table.folder or Path(images).parent)
    pictures = {}
    for _, part in rows.fillna({"attribute": -1}).groupby(["y", "attribute"]):
        y, a = part["y"].iloc[0], part["attribute"].iloc[0]
        attribute = "unknown" if a < 0 else table.attribute_names[a]
        name = f"{table.class_names[y]}, {attribute}, {100 * len(part) / len(rows):.1f} %"
        pictures[name] = [picture(folder, row) for row in part.iloc[:SHOWN].to_dict("records")]
    return figures.draw_examples(pictures, f"{dataset}: training images by class and attribute, with the group's share")


def picture(folder: Path, row: dict) -> np.ndarray:
    """One image of a table, no larger than a figure can show."""
    if not pd.isna(row["index"]):
        return np.load(folder / row["path"], mmap_mode="r", allow_pickle=False)[row["index"]]
    return figures.thumbnail(read_rgb(folder / row["path"]))


job.start(snakemake.log[0])
inputs = {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in snakemake.input.items()}
for path in snakemake.output:
    figures.save(draw_figure(snakemake.wildcards.figure, inputs, snakemake.wildcards.dataset), path)
job.finish("Figure", snakemake.output[0])

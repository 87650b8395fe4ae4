"""Draw one figure of one dataset."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsfm import figures, job
from hsfm.decode import read_rgb
from hsfm.files import read_frame
from hsfm.images import read_images
from hsfm.scores import read_scores

ERM = ["epoch", "train_accuracy", "val_average", "val_worst_group"]
HSFM = ["seed", "epoch", "val_worst_group", "minority_share", "pool_minority_share", "kept"]
SHOWN = 8  # images of a group


def draw_figure(name: str, inputs: dict, dataset: str) -> Figure:
    if name == "examples":
        return examples(*inputs["images"], dataset)
    if name == "hard_set":
        return figures.draw_hard_set(histories(inputs["hsfm"], HSFM), f"{dataset}: what HSFM's hard set holds")
    scores = pd.concat([read_scores(path) for path in inputs["scores"]], ignore_index=True)
    if name == "groups":
        return figures.draw_groups(scores, f"{dataset}: test accuracy by group (dots: single heads)")
    of_erm = scores[(scores["method"] == "erm") & (scores["split"] == "val") & (scores["n"] > 0)]
    return figures.draw_training(
        histories(inputs["erm"], ERM),
        histories(inputs["hsfm"], HSFM),
        of_erm.groupby("run")["accuracy"].min().to_dict(),
        dataset,
    )


def histories(paths: list[str], columns: list[str]) -> pd.DataFrame | None:
    """The histories of all runs; the run is in the path."""
    frames = [read_frame(path, columns).assign(run=int(Path(path).parts[-3].removeprefix("run"))) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else None


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

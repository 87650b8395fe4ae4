"""Draw the figures of one dataset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsfm import figures, job
from hsfm.files import read_frame
from hsfm.images import read_images
from hsfm.scores import read_scores

ERM = ["epoch", "train_accuracy", "val_average", "val_worst_group"]
HSFM = ["seed", "epoch", "val_worst_group", "minority_share", "pool_minority_share", "kept"]


def draw_figures(inputs: dict, outputs: list[str], dataset: str) -> None:
    scores = pd.concat([read_scores(path) for path in inputs["scores"]], ignore_index=True)
    erm, hsfm = histories(inputs["erm"], ERM), histories(inputs["hsfm"], HSFM)
    of_erm = scores[(scores["method"] == "erm") & (scores["split"] == "val") & (scores["n"] > 0)]
    draw: dict[str, Callable[[], Figure]] = {
        "examples": lambda: examples(inputs["images"], dataset),
        "training": lambda: figures.draw_training(
            erm, hsfm, of_erm.groupby("run")["accuracy"].min().to_dict(), dataset
        ),
        "groups": lambda: figures.draw_groups(scores, f"{dataset}: test accuracy by group (dots: single heads)"),
        "hard_set": lambda: figures.draw_hard_set(hsfm, f"{dataset}: what HSFM's hard set holds"),
    }
    for path in map(Path, outputs):
        figures.save(draw[path.stem](), path)


def histories(paths: list[str], columns: list[str]) -> pd.DataFrame | None:
    """The histories of all runs; the run is in the path."""
    frames = [read_frame(path, columns).assign(run=int(Path(path).parts[-3].removeprefix("run"))) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else None


def examples(images: str, dataset: str) -> Figure:
    table = read_images(images)
    rows = table.split("train")
    array = np.load(Path(images).parent / rows["path"].iloc[0], mmap_mode="r", allow_pickle=False)
    pictures = {}
    for _, part in rows.fillna({"attribute": -1}).groupby(["y", "attribute"]):
        y, a = part["y"].iloc[0], part["attribute"].iloc[0]
        attribute = "unknown" if a < 0 else table.attribute_names[a]
        name = f"{table.class_names[y]}, {attribute}, {100 * len(part) / len(rows):.1f} %"
        pictures[name] = array[part["index"].iloc[:8].to_numpy()]
    return figures.draw_examples(pictures, f"{dataset}: training images by class and attribute, with the group's share")


job.start(snakemake.log[0])
draw_figures(dict(snakemake.input.items()), snakemake.output, snakemake.wildcards.dataset)

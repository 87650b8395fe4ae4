"""Figures: data frames and image arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hsfm.files import write_atomically
from hsfm.methods import method_label

# Okabe and Ito's palette, told apart by colour-blind readers; a method keeps its colour in every figure.
COLOURS = {
    "erm": "#7f7f7f",
    "dfr": "#0072B2",
    "llr": "#56B4E9",
    "hsfm": "#D55E00",
    "hsfm_capped": "#8B3E00",
    "dac": "#009E73",
    "ddb": "#CC79A7",
    "ddb_cut_paste": "#B0568B",
    "afr": "#E69F00",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
}


def save(figure: Figure, path: str | Path) -> None:
    """Write as the suffix says (.png, .pdf), without the date, so that equal figures are equal files."""
    suffix = Path(path).suffix.removeprefix(".")
    metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
    with write_atomically(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, format=suffix, metadata=metadata)


def thumbnail(picture: np.ndarray, side: int = 160) -> np.ndarray:
    """A picture or a mask no larger than a figure can show, in its proportions. side: pixels at most."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def draw_examples(images: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """A row of images, each `uint8 [h w 3]`, per group name."""
    columns = max(len(row) for row in images.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.9 * columns + 1.6, 0.95 * len(images) + 0.3))
        axes = figure.subplots(len(images), columns, squeeze=False)
        for row, (name, pictures) in zip(axes, images.items(), strict=True):
            for axis in row:
                axis.set_axis_off()
            for axis, picture in zip(row, pictures, strict=False):
                axis.imshow(picture, interpolation="nearest")
            row[0].text(-0.08, 0.5, name.replace(", ", ",\n"), transform=row[0].transAxes, ha="right", va="center")
        figure.suptitle(title, fontsize=9)
        return figure


def draw_training(
    erm: pd.DataFrame | None, hsfm: pd.DataFrame | None, erm_val_worst: Mapping[int, float], title: str
) -> Figure:
    """ERM's training curves, and HSFM's validation worst group by epoch with the kept epochs marked.

    erm: history of every run, with a column `run`, or None where no network was trained; hsfm: likewise, or None where
    HSFM did not run. erm_val_worst: by run, the worst group of ERM's head, where HSFM starts.
    """
    panels = [name for name, history in (("erm", erm), ("hsfm", hsfm)) if history is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.2 + 4.0 * len(panels), 3.0))
        axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
        if erm is not None:
            _erm_curves(axes["erm"], erm)
        if hsfm is not None:
            _hsfm_curves(axes["hsfm"], hsfm, erm_val_worst)
        figure.suptitle(title, fontsize=9)
        return figure


def _erm_curves(axis: Axes, erm: pd.DataFrame) -> None:
    lines = {
        "train_accuracy": ("training average", "#000000", "-"),
        "val_average": ("validation average", COLOURS["erm"], "-"),
        "val_worst_group": ("validation worst group", COLOURS["erm"], "--"),
    }
    for column, (label, colour, dash) in lines.items():
        for number, (_, part) in enumerate(erm.groupby("run")):
            axis.plot(part["epoch"], 100 * part[column], dash, color=colour, label=None if number else label)
    _dress(axis, "ERM training", "accuracy (%)")


def _hsfm_curves(axis: Axes, hsfm: pd.DataFrame, erm_val_worst: Mapping[int, float]) -> None:
    for number, (run, part) in enumerate(hsfm.groupby("run")):
        axis.axhline(
            100 * erm_val_worst[run], color=COLOURS["erm"], linestyle=":", label=None if number else "ERM head"
        )
        for place, (_, seed) in enumerate(part.groupby("seed")):
            first = number == place == 0
            kept = seed[seed["kept"]]
            axis.plot(
                seed["epoch"], 100 * seed["val_worst_group"], color=COLOURS["hsfm"], alpha=0.6, linewidth=1,
                label="HSFM, one line per seed" if first else None,
            )  # fmt: skip
            axis.plot(
                kept["epoch"], 100 * kept["val_worst_group"], "o", color=COLOURS["hsfm"], markersize=5,
                label="kept epoch" if first else None,
            )  # fmt: skip
    _dress(axis, "HSFM meta-training", "validation worst group (%)")


def draw_groups(scores: pd.DataFrame, title: str) -> Figure:
    """Test accuracy of every group under every method; bars are means over runs and seeds, points the single heads."""
    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    groups, methods = list(dict.fromkeys(test["group_name"])), list(dict.fromkeys(test["method"]))
    width = 0.8 / len(methods)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 1.6 * len(groups), 3.2))
        axis = figure.subplots()
        for number, method in enumerate(methods):
            for place, group in enumerate(groups):
                part = test[(test["method"] == method) & (test["group_name"] == group)]
                x = place + (number - (len(methods) - 1) / 2) * width
                axis.bar(
                    x, 100 * part["accuracy"].mean(), width * 0.92, color=_colour(method),
                    label=None if place else method_label(method),
                )  # fmt: skip
                if len(part) > 1:
                    axis.plot(np.full(len(part), x), 100 * part["accuracy"], ".", color="black", markersize=2.5)
        sizes = test.groupby("group_name")["n"].first()
        labels = [f"{group.replace(', ', chr(10))}\nn = {sizes[group]}" for group in groups]
        axis.set_xticks(range(len(groups)), labels)
        axis.set_ylim(0, 100)
        axis.set_ylabel("test accuracy (%)")
        axis.legend(ncols=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.suptitle(title, fontsize=9)
        return figure


def draw_hard_set(history: pd.DataFrame, title: str) -> Figure:
    """Share of minority images in the hard set by epoch, one line per run and seed."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.0))
        axis = figure.subplots()
        for number, (_, part) in enumerate(history.groupby(["run", "seed"])):
            axis.plot(
                part["epoch"], 100 * part["minority_share"], color=COLOURS["hsfm"], alpha=0.7, linewidth=1,
                label=None if number else "one line per seed",
            )  # fmt: skip
        for number, share in enumerate(history["pool_minority_share"].unique()):
            label = None if number else "share in the whole pool"
            axis.axhline(100 * share, color=COLOURS["erm"], linestyle=":", label=label)
        axis.set_ylim(0, 100)
        _dress(axis, title, "minority images in the hard set (%)")
        return figure


def draw_masks(pictures: Sequence[Mapping[str, Any]], cuts: Sequence[float], title: str) -> Figure:
    """A row per image: itself, its heat map, what the mask keeps, its loss at each cut, and compositions.

    pictures: name; image, uint8 [h w 3]; heat [h w] from 0 to 1; mask, bool [h w]; loss, one per cut, with cut, the
    chosen one, and knee, whether the curve had one (None where the mask was not cut out of a heat map); composed, uint8
    images of one number in all rows.
    """
    columns = [
        "image",
        "heat map",
        "mask keeps",
        "loss at each cut\n(hollow: no knee)",
        *["composed"] * len(pictures[0]["composed"]),
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 * len(columns) + 1.6, 1.05 * len(pictures) + 0.6))
        axes = figure.subplots(len(pictures), len(columns), squeeze=False)
        for number, name in enumerate(columns):
            axes[0, number].set_title(name)
        for row, picture in zip(axes, pictures, strict=True):
            for axis in row:
                axis.set_xticks([])
                axis.set_yticks([])
                axis.grid(visible=False)
                axis.spines[:].set_visible(False)
            row[0].set_ylabel(picture["name"].replace(", ", ",\n"), rotation=0, ha="right", va="center")
            row[0].imshow(picture["image"])
            row[1].imshow(picture["image"])
            row[1].imshow(picture["heat"], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            # grey where it keeps nothing, which is no colour of a photograph's own
            row[2].imshow(np.where(picture["mask"][..., None], picture["image"], 200).astype(np.uint8))
            _loss_curve(row[3], picture, cuts)
            for axis, composed in zip(row[4:], picture["composed"], strict=True):
                axis.imshow(composed)
        figure.suptitle(title, fontsize=9)
        return figure


def draw_generated(pictures: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A contact sheet: source, mask and generated image of each, framed in green where it was kept, in red where not.

    pictures: name; source, uint8 [h w 3]; mask, bool [h w], and generated, uint8 [h w 3], both None where nothing was
    generated; kept; caption.
    """
    side_by_side = 2
    rows = -(-len(pictures) // side_by_side)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.7 * rows + 0.7))
        axes = figure.subplots(rows, 4 * side_by_side, squeeze=False, width_ratios=[1, 1, 1, 1.35] * side_by_side)
        for axis in axes.flat:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
        for column in range(side_by_side):
            for axis, name in zip(axes[0, 4 * column :], ("source", "mask", "generated"), strict=False):
                axis.set_title(name, fontsize=8)
        for number, picture in enumerate(pictures):
            # down the first column, then the second
            column, row = divmod(number, rows)
            source, mask, generated, text = axes[row, 4 * column : 4 * column + 4]
            source.imshow(picture["source"])
            source.set_ylabel(picture["name"], rotation=0, ha="right", va="center", fontsize=7)
            text.text(0, 0.5, picture["caption"], va="center", fontsize=6, transform=text.transAxes)
            if picture["generated"] is None:
                continue
            mask.imshow(picture["mask"], cmap="gray", vmin=0, vmax=1)
            generated.imshow(picture["generated"])
            generated.spines[:].set_visible(True)
            generated.spines[:].set_color("#009E73" if picture["kept"] else "#D55E00")
            generated.spines[:].set_linewidth(2)
        figure.suptitle(title, fontsize=9)
        return figure


def _loss_curve(axis: Axes, picture: Mapping[str, Any], cuts: Sequence[float]) -> None:
    if picture["loss"] is None:
        axis.text(0.5, 0.5, "a mask that\nthe dataset knows", ha="center", va="center", transform=axis.transAxes)
        return
    axis.spines[["left", "bottom"]].set_visible(True)
    axis.plot(cuts, picture["loss"], ".-", color=COLOURS["dac"], linewidth=1, markersize=3)
    chosen = int(np.argmin(np.abs(np.asarray(cuts) - picture["cut"])))
    # hollow: no knee, the fall-back
    axis.plot(
        cuts[chosen], picture["loss"][chosen], "o", color=COLOURS["dac"], markersize=5,
        fillstyle="full" if picture["knee"] else "none",
    )  # fmt: skip
    axis.set_xticks(sorted({cuts[0], cuts[chosen], cuts[-1]}))
    low, high = np.min(picture["loss"]), np.max(picture["loss"])
    axis.set_yticks([low, high], [f"{value:.2g}" for value in (low, high)])
    axis.tick_params(labelsize=6, length=2, pad=1)


def _dress(axis: Axes, title: str, y_label: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("epoch")
    axis.set_ylabel(y_label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()


def _colour(method: str) -> str:
    return COLOURS.get(method, "#000000")

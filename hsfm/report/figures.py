"""Figures: data frames and image arrays in, matplotlib figures out."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hsfm.core.files import write_atomically
from hsfm.report.names import method_label
from hsfm.report.style import GROUP_LOOKS, MARKED, OTHER_GROUPS, Look, of_group, of_method, styled

WIDTH = 7.0  # inches of a figure that fills a page; shown at 700 pixels, its text is as large as the page's


def save(figure: Figure, *paths: str | Path) -> None:
    """Write as the suffixes say (.png, .pdf), without the date, so that equal figures are equal files."""
    for path in paths:
        suffix = Path(path).suffix.removeprefix(".")
        metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
        with write_atomically(path) as temporary, styled():
            smaller = {"pil_kwargs": {"compress_level": 9}} if suffix == "png" else {}
            figure.savefig(temporary, format=suffix, metadata=metadata, **smaller)


def thumbnail(picture: np.ndarray, side: int = 96) -> np.ndarray:
    """A picture or a mask no larger than a figure can show, in its proportions. side: pixels at most."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    return np.asarray(image)


def bare(axis: Axes) -> None:
    """Leave nothing of an axis but what is drawn on it."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def draw_examples(images: Mapping[str, Sequence[np.ndarray]], title: str) -> Figure:
    """A row of images, each `uint8 [h w 3]`, per group name."""
    columns = max(len(row) for row in images.values())
    with styled():
        figure = Figure(figsize=(WIDTH, (WIDTH - 1.4) / columns * len(images) + 0.4))
        axes = figure.subplots(len(images), columns, squeeze=False)
        for row, (name, pictures) in zip(axes, images.items(), strict=True):
            for axis in row:
                axis.set_axis_off()
            for axis, picture in zip(row, pictures, strict=False):
                axis.imshow(picture)
            row[0].text(-0.08, 0.5, name.replace(", ", ",\n"), transform=row[0].transAxes, ha="right", va="center")
        figure.suptitle(title)
        return figure


def draw_training(
    erm: pd.DataFrame | None, others: Mapping[str, pd.DataFrame], erm_val_worst: Mapping[int, float], title: str
) -> Figure:
    """ERM's training curves, and every other method's validation worst group by epoch; kept epochs are marked.

    erm: history of every run, with a column `run`, or None where no network was trained. others: likewise, by method,
    with a column `seed`; of one without groups the worst class is drawn.
    erm_val_worst: by run, the worst group of ERM's head, where HSFM starts.
    """
    count = (erm is not None) + len(others)
    columns = min(3, count)
    lines = -(-count // columns)
    with styled(others):
        figure = Figure(figsize=(min(WIDTH, 0.6 + 3.2 * columns), 0.9 + 2.3 * lines))
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axis in axes[count:]:
            axis.set_axis_off()
        if erm is not None:
            _erm_curves(axes.pop(0), erm)
        for axis, (method, history) in zip(axes, others.items(), strict=False):
            _curves_of(axis, method, history, erm_val_worst)
            axis.sharey(axes[0])
            if axis is axes[0] or axis.get_subplotspec().is_first_col():
                axis.set_ylabel("validation worst group (%)")
        handles = {}
        for axis in figure.axes:
            handles |= dict(reversed(pair) for pair in zip(*axis.get_legend_handles_labels(), strict=True))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
        figure.suptitle(title)
        return figure


def _erm_curves(axis: Axes, erm: pd.DataFrame) -> None:
    look = of_method("erm")
    lines = {
        "train_accuracy": ("training average", "#000000", "-"),
        "val_average": ("validation average", look.color, "--"),
        "val_worst_group": ("validation worst group", look.color, "-"),
    }
    for column, (label, color, dash) in lines.items():
        for number, (_, part) in enumerate(erm.groupby("run")):
            axis.plot(
                part["epoch"], 100 * part[column], dash, color=color, linewidth=1.2, label=None if number else label
            )
    _mark_kept(axis, "erm", erm)
    _dress(axis, "ERM, a line per run" if len(erm["run"].unique()) > 1 else "ERM", "accuracy (%)")


def _curves_of(axis: Axes, method: str, history: pd.DataFrame, erm_val_worst: Mapping[int, float]) -> None:
    worst = "val_worst_group" if history["val_worst_group"].notna().any() else "val_worst_class"
    if worst == "val_worst_group":
        for number, run in enumerate(history["run"].unique()):
            label = None if number else "ERM's head"
            axis.axhline(100 * erm_val_worst[run], color=of_method("erm").color, linestyle=":", label=label)
    for _, part in history.groupby(["run", "seed"]):
        axis.plot(part["epoch"], 100 * part[worst], color=of_method(method).color, alpha=0.7, linewidth=1)
    _mark_kept(axis, method, history, worst)
    of = ", worst class" if worst == "val_worst_class" else ""
    _dress(axis, f"{method_label(method)}{of}, a line per seed", "")


def _mark_kept(axis: Axes, method: str, history: pd.DataFrame, worst: str = "val_worst_group") -> None:
    kept = history[history["kept"]]
    axis.plot(
        kept["epoch"], 100 * kept[worst], of_method(method).marker, color=of_method(method).color,
        markersize=6, markeredgecolor="black", label=f"{method_label(method)}: kept epoch",
    )  # fmt: skip


SHOWN_GROUPS = 8  # more do not fit side by side


def draw_groups(scores: pd.DataFrame, title: str) -> Figure:
    """Test accuracy of every group under every method, the group that ERM does worst on first.

    Markers are means over runs and seeds, dots the single heads, bars Wilson's interval of 95 % for as many test images
    as the group has. Of many groups those are shown on which some method is worst.
    """
    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    methods = list(dict.fromkeys(test["method"]))
    mean = test.groupby(["group_name", "method"], sort=False)["accuracy"].mean().unstack("method")[methods]
    first = "erm" if "erm" in methods else methods[0]
    groups = list(mean.min(axis=1).sort_values(kind="stable").index[:SHOWN_GROUPS])
    groups = list(mean.loc[groups, first].sort_values(kind="stable").index)
    if len(mean) > len(groups):
        title += f"; the {len(groups)} lowest of {len(mean)} groups"
    sizes = test.groupby("group_name")["n"].first()
    width = 0.84 / len(methods)
    with styled(methods):
        figure = Figure(figsize=(WIDTH, 3.6))
        axis = figure.subplots()
        for number, method in enumerate(methods):
            look = of_method(method)
            x = np.arange(len(groups)) + (number - (len(methods) - 1) / 2) * width
            y = mean.loc[groups, method].to_numpy(float)
            low, high = interval(y, sizes[groups].to_numpy(float))
            axis.vlines(x, 100 * low, 100 * high, color=look.color, linewidth=1.4, alpha=0.75)
            axis.plot(
                x, 100 * y, look.marker, color=look.color, markersize=6, markeredgecolor="white", markeredgewidth=0.5,
                label=method_label(method),
            )  # fmt: skip
            for place, group in zip(x, groups, strict=True):
                heads = 100 * test.loc[(test["method"] == method) & (test["group_name"] == group), "accuracy"]
                if len(heads) > 1:
                    axis.plot(np.full(len(heads), place + 0.36 * width), heads, ".", color="black", markersize=2)
        for place in range(1, len(groups), 2):
            axis.axvspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0)
        letters = int(6.2 / len(groups) / 0.075)  # of a line between two groups
        axis.set_xticks(range(len(groups)), [f"{_wrapped(group, letters)}\nn = {sizes[group]}" for group in groups])
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.set_ylabel("test accuracy (%)")
        figure.legend(loc="outside lower center", ncols=min(len(methods), 5))
        figure.suptitle(title)
        return figure


def interval(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of 95 % of a share among n."""
    z = 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def _wrapped(group: str, letters: int) -> str:
    return "\n".join(textwrap.fill(part, letters, break_long_words=False) for part in group.split(", "))


def draw_hard_set(counts: pd.DataFrame, groups: pd.DataFrame, minority: pd.DataFrame, title: str) -> Figure:
    """Composition of HSFM's hard set by group and epoch, mean over runs and seeds, beside that of all of validation.

    counts: run, seed, epoch, group_name and n. groups: group_name, n in validation, and minority (None where unknown),
    in the order of their looks. minority: run, seed, epoch and minority_share, a line each; NaN where unknown.
    """
    share = counts.groupby(["run", "seed", "epoch", "group_name"])["n"].sum()
    share = (share / share.groupby(["run", "seed", "epoch"]).transform("sum")).unstack("group_name", fill_value=0.0)
    share = 100 * share.groupby("epoch").mean().reindex(columns=groups["group_name"], fill_value=0.0)
    pool = 100 * groups.set_index("group_name")["n"] / groups["n"].sum()
    stacked = stacking(share, groups)
    with styled():
        figure = Figure(figsize=(WIDTH, 3.4))
        axis, whole = figure.subplots(1, 2, sharey=True, width_ratios=[12, 1])
        floor, floor_of_pool, middles = np.zeros(len(share)), 0.0, {}
        for names, name, look in stacked:
            height = share[names].sum(axis=1).to_numpy()
            fill = {"facecolor": look.color, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
            axis.bar(share.index, height, 1.0, floor, label=name, **fill)
            whole.bar(0, pool[names].sum(), 0.8, floor_of_pool, **fill)
            middles[_beside(name, height[-1], len(stacked))] = floor_of_pool + pool[names].sum() / 2
            floor, floor_of_pool = floor + height, floor_of_pool + pool[names].sum()
        for number, (_, part) in enumerate(minority.dropna().groupby(["run", "seed"])):
            axis.plot(
                part["epoch"], 100 * part["minority_share"], color="black", linewidth=0.8,
                label=None if number else "share of minority groups, a line per seed",
            )  # fmt: skip
        lines = max(text.count("\n") + 1 for text in middles)
        heights = within(spread_out(list(middles.values()), 5.0 * lines), 0.0, 100.0)
        for text, y in zip(middles, heights, strict=True):
            whole.annotate(text, (0.6, y), annotation_clip=False, va="center", fontsize=7)
        axis.set_xlim(share.index.min() - 0.5, share.index.max() + 0.5)
        axis.set_ylim(0, 100)
        _dress(axis, title, "share of the hard set (%)")
        whole.set_title("all of\nvalidation")
        whole.set_xticks([])
        for one in (axis, whole):
            one.grid(visible=False)
        handles, names = axis.get_legend_handles_labels()
        lines = [(h, n) for h, n in zip(handles, names, strict=True) if n.startswith("share of minority")]
        if lines:
            figure.legend(*zip(*lines, strict=True), loc="outside lower center")
        return figure


def _beside(name: str, share: float, count: int) -> str:
    """The label of one of some groups, as many lines as there is room for."""
    if count > 5:
        return f"{textwrap.shorten(name, 26, placeholder=' …')}: {share:.0f} %"
    return f"{_wrapped(name, 18)}\n{share:.0f} % at the end"


def stacking(share: pd.DataFrame, groups: pd.DataFrame, most: int = GROUP_LOOKS) -> list[tuple[list[str], str, Look]]:
    """Order of stacking, from below: group names, their label, look; minority groups first.

    share: a column per group name. groups: group_name and minority, in their order. Of more than `most` groups those
    with the least of the share are one.
    """
    order = list(groups["group_name"])
    large = order
    if len(order) > most:
        kept = set(share.mean().sort_values(ascending=False, kind="stable").index[: most - 1])
        large = [name for name in order if name in kept]
    looks = {name: of_group(number) for number, name in enumerate(large)}
    rare = set(groups.loc[groups["minority"].fillna(False).astype(bool), "group_name"])
    stack = [([name], name, looks[name]) for name in sorted(large, key=lambda name: name not in rare)]
    rest = [name for name in order if name not in looks]
    return [*stack, (rest, f"{len(rest)} other groups", OTHER_GROUPS)] if rest else stack


def frame_around(points: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of x and of y that leave some room around points [n 2]."""
    low, high = points.min(0), points.max(0)
    room = 0.15 * (high - low)
    return tuple(zip((low - room).tolist(), (high + room).tolist(), strict=True))


def spread_out(places: Sequence[float], room: float) -> list[float]:
    """The places moved apart, as little as need be and in their order, until neighbors have `room` between them."""
    order = np.argsort(places, kind="stable")
    # each block of places that touch lies around the mean of what its members want
    blocks: list[list[int]] = []
    for number in order:
        blocks.append([int(number)])
        while len(blocks) > 1 and _start(blocks[-2], places, room) + room * len(blocks[-2]) > _start(
            blocks[-1], places, room
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = [0.0] * len(places)
    for block in blocks:
        for step, number in enumerate(block):
            moved[number] = _start(block, places, room) + room * step
    return moved


def within(places: Sequence[float], low: float, high: float) -> list[float]:
    """The places moved together, so that they lie between two bounds as far as they can."""
    shift = max(low - min(places), min(0.0, high - max(places)))
    return [place + shift for place in places]


def _start(block: Sequence[int], places: Sequence[float], room: float) -> float:
    return float(np.mean([places[number] for number in block])) - room * (len(block) - 1) / 2


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
    with styled():
        figure = Figure(figsize=(WIDTH, 0.86 * len(pictures) + 0.7))
        axes = figure.subplots(len(pictures), len(columns), squeeze=False)
        for number, name in enumerate(columns):
            axes[0, number].set_title(name)
        for row, picture in zip(axes, pictures, strict=True):
            for axis in row:
                bare(axis)
            row[0].set_ylabel(picture["name"].replace(", ", ",\n"), rotation=0, ha="right", va="center")
            image, heat, mask = (thumbnail(picture[name]) for name in ("image", "heat", "mask"))
            row[0].imshow(image)
            row[1].imshow(image)
            row[1].imshow(heat, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
            # gray where it keeps nothing, which is no color of a photograph's own
            row[2].imshow(np.where(mask[..., None], image, 200).astype(np.uint8))
            _loss_curve(row[3], picture, cuts)
            for axis, composed in zip(row[4:], picture["composed"], strict=True):
                axis.imshow(thumbnail(composed))
        figure.suptitle(title)
        return figure


def draw_generated(pictures: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A contact sheet: source, mask and generated image of each, framed in green if kept, else dashed in orange.

    pictures: name; source, uint8 [h w 3]; mask, bool [h w], and generated, uint8 [h w 3], both None where nothing was
    generated; kept; caption.
    """
    side_by_side = 2
    rows = -(-len(pictures) // side_by_side)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.66 * rows + 0.7))
        axes = figure.subplots(rows, 4 * side_by_side, squeeze=False, width_ratios=[1, 1, 1, 1.35] * side_by_side)
        for axis in axes.flat:
            bare(axis)
        for column in range(side_by_side):
            for axis, name in zip(axes[0, 4 * column :], ("source", "mask", "generated"), strict=False):
                axis.set_title(name, fontsize=8)
        for number, picture in enumerate(pictures):
            # down the first column, then the second
            column, row = divmod(number, rows)
            source, mask, generated, text = axes[row, 4 * column : 4 * column + 4]
            source.imshow(thumbnail(picture["source"]))
            source.set_ylabel(picture["name"], rotation=0, ha="right", va="center", fontsize=7)
            text.text(0, 0.5, picture["caption"], va="center", fontsize=6, transform=text.transAxes)
            if picture["generated"] is None:
                continue
            mask.imshow(thumbnail(picture["mask"]), cmap="gray", vmin=0, vmax=1)
            generated.imshow(thumbnail(picture["generated"]))
            generated.spines[:].set_visible(True)
            generated.spines[:].set_color("#009E73" if picture["kept"] else MARKED)
            generated.spines[:].set_linestyle("-" if picture["kept"] else (0, (2, 1)))
            generated.spines[:].set_linewidth(2)
        figure.suptitle(title)
        return figure


def _loss_curve(axis: Axes, picture: Mapping[str, Any], cuts: Sequence[float]) -> None:
    if picture["loss"] is None:
        axis.text(0.5, 0.5, "a mask that\nthe dataset knows", ha="center", va="center", transform=axis.transAxes)
        return
    axis.spines[["left", "bottom"]].set_visible(True)
    axis.plot(cuts, picture["loss"], ".-", color=of_method("dac").color, linewidth=1, markersize=3)
    chosen = int(np.argmin(np.abs(np.asarray(cuts) - picture["cut"])))
    # hollow: no knee, the fall-back
    axis.plot(
        cuts[chosen], picture["loss"][chosen], "o", color=of_method("dac").color, markersize=5,
        fillstyle="full" if picture["knee"] else "none",
    )  # fmt: skip
    axis.set_xticks(sorted({cuts[0], cuts[chosen], cuts[-1]}))
    low, high = np.min(picture["loss"]), np.max(picture["loss"])
    axis.set_yticks([low, high], [f"{value:.2g}" for value in (low, high)])
    axis.tick_params(labelsize=6, length=2, pad=1)


def _dress(axis: Axes, title: str, y_label: str, x_label: str = "epoch") -> None:
    axis.set_title(title)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))

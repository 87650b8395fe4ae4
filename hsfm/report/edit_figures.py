"""Figures of the analysis of support edits: data frames and arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hsfm.report.figures import WIDTH, bare, frame_around, thumbnail
from hsfm.report.style import GROUP_LOOKS, MARKED, OTHER_GROUPS, Look, of_group, of_method, styled

DECODED_SIDE = 160  # pixels, of a decoded picture


def draw_plane(
    points: Mapping[str, np.ndarray],
    before: np.ndarray,
    after: np.ndarray,
    names: Sequence[str],
    labels: tuple[str, str],
    title: str,
) -> Figure:
    """Validation images of each group as points, the support as arrows from before to after its edits.

    On the left all of it, on the right as much as the validation images take. points: by group name, [n 2]; before,
    after: [m 2]; names: the group of each support row; labels: of the axes.
    """
    look = looks_of(list(points))
    others = [name for name in points if look[name] == OTHER_GROUPS]
    words = {name: name for name in points} | dict.fromkeys(others, f"{len(others)} other groups")
    colors = [look[name].color if name in look else "black" for name in names]
    with styled():
        figure = Figure(figsize=(WIDTH, 4.0))
        axes = figure.subplots(1, 2)
        for axis in axes:
            for name, place in points.items():
                axis.plot(
                    *place.T, look[name].marker, color=look[name].color, markersize=2.5, alpha=0.45, markeredgewidth=0,
                    label=f"validation: {words[name]}",
                )  # fmt: skip
            # quiver, whose arrows end where the axes do
            axis.quiver(
                *before.T, *(after - before).T, color=colors,
                angles="xy", scale_units="xy", scale=1, width=0.004, headwidth=5,
            )  # fmt: skip
            axis.plot(*before.T, "o", markersize=3, markerfacecolor="white", markeredgecolor="black",
                      markeredgewidth=0.6, linestyle="none", label="support, before its edits")  # fmt: skip
            axis.set_xlabel(labels[0])
            axis.grid(visible=False)
        # arrows do not widen the axes
        axes[0].plot(*np.concatenate([before, after]).T, alpha=0)
        axes[0].set_title("all of it")
        (left, right), (low, high) = frame_around(np.concatenate([*points.values(), before]))
        axes[1].set_xlim(left, right)
        axes[1].set_ylim(low, high)
        axes[1].set_title("where the validation images lie")
        axes[0].set_ylabel(labels[1])
        legend = dict(reversed(pair) for pair in zip(*axes[0].get_legend_handles_labels(), strict=True))
        figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=3, markerscale=2)
        figure.suptitle(title)
        return figure


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """The look of each group; where there are more groups than looks, the last ones share that of the others."""
    own = GROUP_LOOKS if len(names) <= GROUP_LOOKS else GROUP_LOOKS - 1
    return {name: of_group(number) if number < own else OTHER_GROUPS for number, name in enumerate(names)}


def draw_neighbors(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """A row per support image: itself, its nearest training images before and after the edit.

    rows: name; caption; image, uint8 [h w 3]; before and after, equally many such images, each with a text.
    """
    k = len(rows[0]["before"])
    with styled():
        figure = Figure(figsize=(WIDTH, 0.86 * len(rows) + 0.6))
        # a narrow column of nothing between the three parts
        axes = figure.subplots(
            len(rows), 2 * k + 3, squeeze=False, width_ratios=[1, 0.12, *[1] * k, 0.12, *[1] * k]
        )  # fmt: skip
        for axis in axes.flat:
            bare(axis)
        axes[0, 0].set_title("support")
        axes[0, 2].set_title("nearest before", loc="left")
        axes[0, k + 3].set_title("nearest after", loc="left")
        for line, row in zip(axes, rows, strict=True):
            line[0].imshow(thumbnail(row["image"]))
            line[0].set_ylabel(row["name"], rotation=0, ha="right", va="center", fontsize=7)
            line[0].set_xlabel(row["caption"], fontsize=6)
            for place, part in ((2, "before"), (k + 3, "after")):
                for axis, (picture, text, differs) in zip(line[place : place + k], row[part], strict=True):
                    axis.imshow(thumbnail(picture))
                    axis.set_xlabel(text, fontsize=6, **_stressed(differs))
        figure.suptitle(title)
        return figure


def draw_decoded(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Original image, and pictures of its embedding before and after the edit, two rows of them side by side.

    rows: name; original, uint8 [h w 3]; before and after, such pictures with a text; moved, whether the texts tell
    different attributes.
    """
    lines = -(-len(rows) // 2)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.2 * lines + 0.6))
        axes = figure.subplots(lines, 7, squeeze=False, width_ratios=[1, 1, 1, 0.35, 1, 1, 1])
        for axis in axes.flat:
            bare(axis)
        for first in (0, 4):
            for axis, name in zip(axes[0, first : first + 3], ("original", "before", "after"), strict=True):
                axis.set_title(name, fontsize=8)
        for number, row in enumerate(rows):
            column, line = divmod(number, lines)
            original, before, after = axes[line, 4 * column : 4 * column + 3]
            original.imshow(thumbnail(row["original"], DECODED_SIDE))
            original.set_ylabel(row["name"], rotation=0, ha="right", va="center", fontsize=7)
            for axis, (picture, text) in ((before, row["before"]), (after, row["after"])):
                axis.imshow(thumbnail(picture, DECODED_SIDE))
                axis.set_xlabel(text, fontsize=7, **_stressed(axis is after and row["moved"]))
        figure.suptitle(title)
        return figure


def draw_cosines(rows: pd.DataFrame, title: str) -> Figure:
    """How the edits' cosines with the spurious and the class direction lie, against random directions' spread."""
    panels = {"cos_spurious": "with the spurious direction", "cos_class": "with the class direction"}
    panels = {name: words for name, words in panels.items() if rows[name].notna().any()}
    bins = np.linspace(-1, 1, 41)
    edited = rows[rows["length"] > 0]
    with styled():
        figure = Figure(figsize=(WIDTH / 2 * max(len(panels), 1), 2.9))
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
        for axis, (name, words) in zip(axes, panels.items(), strict=False):
            axis.hist(edited[name], bins, color=of_method("hsfm").color, label="edits")
            for factor, spread, color in (
                (2, edited["pairs_spread"].mean(), "#bbbbbb"), (2, edited["random_spread"].mean(), "#7f7f7f")
            ):  # fmt: skip
                if np.isfinite(spread):
                    what = "random directions" if color == "#7f7f7f" else "differences within a group"
                    axis.axvspan(-factor * spread, factor * spread, color=color, alpha=0.45, zorder=0,
                                 label=f"{what}, ± 2 deviations")  # fmt: skip
            axis.set_xlim(-1, 1)
            axis.set_xticks([-1, -0.5, 0, 0.5, 1])
            axis.set_xlabel(f"cosine of the edit {words}")
        axes[0].set_ylabel("support rows")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        figure.suptitle(title)
        return figure


def _stressed(yes: bool) -> dict[str, str]:
    """Orange and, for print without colors, bold."""
    return {"color": MARKED, "fontweight": "bold"} if yes else {"color": "black"}

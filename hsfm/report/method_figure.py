"""Figure of HSFM in four connected panels: support, inner loop, hard set, outer loss. Knows no torch."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from hsfm.report.figures import WIDTH, frame_around, stacking, thumbnail
from hsfm.report.style import OTHER_GROUPS, Look, of_method, styled

HEIGHT = 7.3
PANEL = (3.22, 3.1)  # inches
EDGE, LEGEND = 0.04, 0.42
SMALL = 7  # points
HOW = "under the current head"
HARDEST = (2, 4)  # rows and columns of pictures
HISTORY = ["seed", "epoch", "outer_loss", "val_worst_group", "val_worst_class", "kept"]  # of HSFM's history


@dataclass(frozen=True)
class Loop:
    """An inner loop: a value before each step and after the last."""

    name: str
    support_loss: Sequence[float]
    change: Sequence[float]  # of the head, |W_t - W_0| / |W_0|
    outer_loss: float  # of the head after the last step


@dataclass(frozen=True)
class MethodData:
    """The data of all panels, from one seed of HSFM. Groups are named by class and attribute."""

    title: str
    settings: Mapping[str, Any]  # of HSFM, with hard_per_class
    symbols: Mapping[str, Any]  # those that the paper has letters for
    groups: pd.DataFrame  # group_name and minority (None where unknown), in the order of their looks
    # support
    pictures: Mapping[str, Sequence[np.ndarray]]  # support images by group; empty where there are none
    support_size: int
    points: Mapping[str, np.ndarray]  # validation images by group, [n 2]
    before: np.ndarray  # [m 2]
    after: np.ndarray  # [m 2]
    names: Sequence[str]  # the groups of the support rows
    labels: tuple[str, str]  # of the plane's axes
    # inner loop
    loops: Sequence[Loop]  # the first of the training, and the one that follows the kept epoch
    # hard set
    hardest: Sequence[tuple[np.ndarray | None, float, str]]  # picture, loss and group; empty of a random outer set
    losses: Sequence[float]  # of the hard set under ERM's head, falling; likewise
    held: pd.DataFrame  # group_name, and n in the hard set of the first and of the kept epoch: columns first, kept
    # outer loss
    history: pd.DataFrame  # epoch, outer_loss, val_worst_group, val_worst_class, kept

    @property
    def kept_epoch(self) -> int:
        return int(self.history.loc[self.history["kept"], "epoch"].iloc[0])


def draw_method(data: MethodData) -> Figure:
    """The panels clockwise, as the method goes through them, with an arrow from each to the next."""
    share = data.held.set_index("group_name")[["first", "kept"]].T
    stack = stacking(share, data.groups)
    looks = {name: look for names, _, look in stack for name in names}
    with styled():
        # layout="none" would give way to the style's at the second save
        figure = Figure(figsize=(WIDTH, HEIGHT), layout=PlaceHolderLayoutEngine(True, True))
        right, upper = WIDTH - EDGE - PANEL[0], HEIGHT - 0.34 - PANEL[1]
        _support(_Panel(figure, EDGE, upper), data, looks)
        _inner_loop(_Panel(figure, right, upper), data)
        _hard_set(_Panel(figure, right, LEGEND), data, stack, looks)
        _outer_loss(_Panel(figure, EDGE, LEGEND), data)
        _arrows(figure, data)
        handles = [
            Patch(facecolor=look.color, hatch=look.hatch, edgecolor="white", label=name) for _, name, look in stack
        ]
        columns = 4 if max(len(handle.get_label()) for handle in handles) < 26 else 3
        figure.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=columns, fontsize=SMALL,
            borderaxespad=0.2, handlelength=1.6, labelspacing=0.25, columnspacing=1.4,
        )  # fmt: skip
        figure.text(0.5, 1 - 0.07 / HEIGHT, data.title, ha="center", va="top")
        return figure


class _Panel:
    """A box on the figure with a heading; its axes are placed in inches from its lower left corner."""

    def __init__(self, figure: Figure, x: float, y: float):
        self.figure, self.x, self.y = figure, x, y
        box = FancyBboxPatch(
            (x + 0.06, y + 0.06), PANEL[0] - 0.12, PANEL[1] - 0.12, boxstyle="round,pad=0.06", linewidth=0.8,
            edgecolor="#999999", facecolor="#fafafa", transform=figure.dpi_scale_trans, zorder=-1,
        )  # fmt: skip
        figure.add_artist(box)

    def heading(self, number: int, name: str, *lines: str) -> None:
        self.text(0.12, PANEL[1] - 0.11, f"{number}  {name}", fontsize=10, fontweight="bold", va="top")
        self.text(0.12, PANEL[1] - 0.32, "\n".join(lines), fontsize=SMALL, va="top")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text((self.x + x) / WIDTH, (self.y + y) / HEIGHT, text, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        axis = self.figure.add_axes(
            ((self.x + x) / WIDTH, (self.y + y) / HEIGHT, width / WIDTH, height / HEIGHT), facecolor="none"
        )
        axis.tick_params(labelsize=SMALL - 1, length=2, pad=1.5)
        return axis

    def picture(self, x: float, y: float, side: float, picture: np.ndarray, look: Look) -> None:
        axis = self.axes(x, y, side, side)
        axis.imshow(thumbnail(picture))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(True)
        axis.spines[:].set(color=look.color, linewidth=1.5)


def _support(panel: _Panel, data: MethodData, looks: Mapping[str, Look]) -> None:
    per_class = data.settings["support_draw"] == "per_class"
    drawn = f"{data.settings['support_per_class']} of each class" if per_class else "drawn over all classes"
    panel.heading(
        1, "Support", f"{data.support_size} training images, {drawn}:", "their features H are learnt, their labels stay"
    )  # fmt: skip
    side, step, top = 0.4, 1.5, PANEL[1] - 0.72
    for number, (name, pictures) in enumerate(data.pictures.items()):
        down, across = divmod(number, 2)
        x, y = 0.14 + step * across, top - 0.58 * down
        panel.text(x, y, textwrap.shorten(name, 27, placeholder=" …"), fontsize=SMALL - 0.5, va="bottom")
        for place, picture in enumerate(pictures):
            panel.picture(x + 0.46 * place, y - side - 0.03, side, picture, looks.get(name, OTHER_GROUPS))
    lines = -(-len(data.pictures) // 2)
    axis = panel.axes(0.4, 0.34, PANEL[0] - 0.55, PANEL[1] - 1.0 - 0.58 * lines - (0.02 if lines else 0))
    for name, place in data.points.items():
        look = looks.get(name, OTHER_GROUPS)
        axis.plot(*place.T, look.marker, color=look.color, markersize=2, alpha=0.4, markeredgewidth=0)
    axis.quiver(
        *data.before.T, *(data.after - data.before).T, angles="xy", scale_units="xy", scale=1, width=0.004, headwidth=5,
        color=[looks.get(name, OTHER_GROUPS).color for name in data.names],
    )  # fmt: skip
    axis.plot(
        *data.before.T, "o", markersize=2.5, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.5
    )
    (left, right), (low, high) = frame_around(np.concatenate([*data.points.values(), data.before]))
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)
    axis.grid(visible=False)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(f"{data.labels[0]} (circles: as drawn, lines: edits)", fontsize=SMALL - 0.5, labelpad=2)
    axis.set_ylabel(data.labels[1].removeprefix("along the "), fontsize=SMALL - 0.5, labelpad=2)


def _inner_loop(panel: _Panel, data: MethodData) -> None:
    steps, lr = data.symbols["T"], data.symbols["alpha"]
    panel.heading(
        2, "Inner loop", f"T = {steps} trial steps of $\\alpha$ = {lr:g} on the support's loss;",
        "once an epoch T steps of Adam move the head itself",
    )  # fmt: skip
    loss = panel.axes(0.55, 1.42, PANEL[0] - 0.7, 0.86)
    change = panel.axes(0.55, 0.38, PANEL[0] - 0.7, 0.86)
    for loop, marker, dash in zip(data.loops, ("s", "o"), ("--", "-"), strict=False):
        style = {"color": of_method("erm" if dash == "--" else "hsfm").color, "marker": marker, "markersize": 3,
                 "linewidth": 1.2, "linestyle": dash, "markevery": max(1, steps // 10)}  # fmt: skip
        loss.plot(range(steps + 1), loop.support_loss, label=loop.name, **style)
        change.plot(range(steps + 1), 100 * np.asarray(loop.change), **style)
    values = np.concatenate([loop.support_loss for loop in data.loops])
    if values.min() > 0 and values.max() > 20 * values.min():
        loss.set_yscale("log")
    else:
        loss.yaxis.set_major_locator(MaxNLocator(4))
    loss.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, fontsize=SMALL - 0.5, borderaxespad=0.1,
        handlelength=1.8, columnspacing=1.0,
    )  # fmt: skip
    loss.set_ylabel("support loss", fontsize=SMALL)
    change.set_ylabel("head moved (%)", fontsize=SMALL)
    change.set_xlabel("step", fontsize=SMALL, labelpad=1)
    change.set_ylim(bottom=0)
    for axis in (loss, change):
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    loss.tick_params(labelbottom=False)


def _hard_set(
    panel: _Panel, data: MethodData, stack: Sequence[tuple[list[str], str, Look]], looks: Mapping[str, Look]
) -> None:
    k, random = data.settings["hard_per_class"], data.settings["outer_set"] == "random"
    when = "each epoch anew" if data.settings["refresh"] == "epoch" else "once, at the start"
    name, kind, how = ("Random", "", "drawn at random") if random else ("Hard", " with the highest loss", HOW)
    panel.heading(3, f"{name} set", f"{k} validation images of each class{kind}", f"{how}, {when}")
    rows, columns = HARDEST
    if data.hardest and data.hardest[0][0] is not None:
        panel.text(0.14, PANEL[1] - 0.76, "the hardest of epoch 1 and their loss", fontsize=SMALL - 0.5, va="bottom")
        for number, (picture, value, name) in enumerate(data.hardest[: rows * columns]):
            down, across = divmod(number, columns)
            x, y = 0.14 + 0.76 * across, PANEL[1] - 1.3 - 0.68 * down
            panel.picture(x, y, 0.5, picture, looks.get(name, OTHER_GROUPS))
            panel.text(x + 0.25, y - 0.02, f"{value:.1f}", fontsize=SMALL - 0.5, ha="center", va="top")
    elif len(data.losses):
        axis = panel.axes(0.5, 1.36, PANEL[0] - 0.65, 1.0)
        axis.plot(np.arange(1, len(data.losses) + 1), data.losses, color=of_method("erm").color)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("rank in the hard set of epoch 1", fontsize=SMALL, labelpad=1)
        axis.set_ylabel("loss", fontsize=SMALL)
    bars = panel.axes(0.14, 0.2, PANEL[0] - 0.28, 0.62)
    for place, (column, name) in enumerate((("first", "epoch 1"), ("kept", f"epoch {data.kept_epoch}, kept"))):
        held = data.held.set_index("group_name")[column]
        total, left = held.sum(), 0.0
        for names, _, look in stack:
            width = held.reindex(names).sum() / total
            bars.barh(-place, width, 0.5, left, facecolor=look.color, hatch=look.hatch, edgecolor="white", linewidth=0)
            if width > 0.1:
                bars.text(
                    left + width / 2, -place, f"{100 * width:.0f} %", ha="center", va="center", fontsize=SMALL - 0.5,
                    bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
                )  # fmt: skip
            left += width
        bars.text(0, -place + 0.3, f"{name}: {total:.0f} images", fontsize=SMALL - 0.5, va="bottom")
    bars.set_xlim(0, 1)
    bars.set_ylim(-1.35, 0.7)
    bars.set_axis_off()


def _outer_loss(panel: _Panel, data: MethodData) -> None:
    kind = "random" if data.settings["outer_set"] == "random" else "hard"
    panel.heading(
        4, "Outer loss", f"the adapted heads' mean loss on the {kind} set;", "the best epoch on validation is kept"
    )  # fmt: skip
    worst = "val_worst_group" if data.history["val_worst_group"].notna().any() else "val_worst_class"
    upper = panel.axes(0.55, 1.46, PANEL[0] - 0.7, 0.9)
    lower = panel.axes(0.55, 0.38, PANEL[0] - 0.7, 0.9)
    look = of_method("hsfm")
    for axis, values, word in (
        (upper, data.history["outer_loss"], "outer loss"),
        (lower, 100 * data.history[worst], f"{worst.removeprefix('val_').replace('_', ' ')} (%)"),
    ):
        kept = data.history["kept"].to_numpy()
        axis.plot(data.history["epoch"], values, color=look.color, linewidth=1.2)
        axis.plot(
            data.history["epoch"][kept], values[kept], look.marker, color=look.color, markersize=6,
            markeredgecolor="black",
        )  # fmt: skip
        axis.axvline(data.kept_epoch, color="black", linewidth=0.6, linestyle=":")
        axis.set_ylabel(word, fontsize=SMALL)
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(4))
        low, high = axis.get_ylim()
        axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        value = values[kept].iloc[0]
        if np.isfinite(value):
            # on the side of the curve that is free
            middle = np.mean(axis.get_xlim())
            left = data.kept_epoch > middle
            above = value < np.mean(axis.get_ylim())
            text = f"epoch {data.kept_epoch}: {value:.3g}" if axis is upper else f"epoch {data.kept_epoch}: {value:.1f}"
            axis.annotate(
                text, (data.kept_epoch, value), (-6 if left else 6, 7 if above else -7), textcoords="offset points",
                ha="right" if left else "left", va="bottom" if above else "top", fontsize=SMALL,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "#fafafa", "edgecolor": "none", "alpha": 0.85},
            )  # fmt: skip
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("epoch", fontsize=SMALL, labelpad=1)


def _arrows(figure: Figure, data: MethodData) -> None:
    """From panel to panel, and what goes along."""
    left, right = EDGE + PANEL[0], WIDTH - EDGE - PANEL[0]
    low, high = LEGEND + PANEL[1], HEIGHT - 0.34 - PANEL[1]
    upper, lower = high + PANEL[1] / 2, LEGEND + PANEL[1] / 2
    across_left, across_right = EDGE + 0.5, right + 0.5
    for start, end in (
        ((left, upper), (right, upper)),
        ((across_right, high), (across_right, low)),
        ((right, lower), (left, lower)),
        ((across_left, low), (across_left, high)),
    ):
        figure.add_artist(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="simple,head_width=9,head_length=7,tail_width=3",
                color=of_method("hsfm").color,
                linewidth=0,
                shrinkA=1,
                shrinkB=1,
                transform=figure.dpi_scale_trans,
            )
        )  # fmt: skip

    def say(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / WIDTH, y / HEIGHT, text, fontsize=SMALL - 0.5, **style)

    middle = (low + high) / 2
    say(WIDTH / 2, upper + 0.1, "H and\nlabels", ha="center", va="bottom")
    first, later = (f"{loop.outer_loss:.2f}" for loop in data.loops)
    adapted = f"the adapted head: outer loss\n{first} in epoch 1, {later} after epoch {data.kept_epoch}"
    say(across_right + 0.12, middle, adapted, va="center")
    say(WIDTH / 2, lower + 0.1, "its\nlosses", ha="center", va="bottom")
    say(
        across_left + 0.12, middle,
        f"gradient through all steps, by Adam with $\\eta$ = {data.symbols['eta']:g}\n"
        f"to H; $K_H$ = {data.symbols['K_H']} times an epoch",
        va="center",
    )  # fmt: skip

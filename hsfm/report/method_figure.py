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
from matplotlib.ticker import LogFormatter, MaxNLocator, NullFormatter

from hsfm.report.edit_figures import plot_edits
from hsfm.report.figures import WIDTH, frame_around, stacking
from hsfm.report.pictures import thumbnail
from hsfm.report.style import OTHER_GROUPS, Look, of_method, styled

HEIGHT = 7.3
PANEL = (3.22, 3.1)  # inches
EDGE, LEGEND = 0.04, 0.42
SMALL = 7  # points
COLUMNS = 4  # of pictures in the hard set's panel
Stack = Sequence[tuple[list[str], str, Look]]  # of `figures.stacking`
HISTORY = ["seed", "epoch", "outer_loss", "val_worst_group", "val_worst_class", "kept"]  # of HSFM's history


@dataclass(frozen=True)
class MethodData:
    """The data of all panels, from one seed of HSFM. Groups are named by class and attribute."""

    title: str
    settings: Mapping[str, Any]  # of HSFM, with hard_per_class
    symbols: Mapping[str, Any]  # those that the paper has letters for
    groups: pd.DataFrame  # group_name and minority (None where unknown), in the order of their looks
    # support
    pictures: Mapping[str, Sequence[np.ndarray]]  # support images by group
    support_size: int
    points: Mapping[str, np.ndarray]  # validation images by group, [n 2]
    before: np.ndarray  # [m 2]
    after: np.ndarray  # [m 2]
    names: Sequence[str]  # the groups of the support rows
    labels: tuple[str, str]  # of the plane's axes
    # inner loop
    # the first of the training, and the one that follows the kept epoch: name; support_loss and change of the head,
    # |W_t - W_0| / |W_0|, before each step and after the last; outer_loss after the last
    loops: Sequence[Mapping[str, Any]]
    # hard set
    hardest: Sequence[tuple[np.ndarray, float, str]]  # picture, loss and group; empty of a random outer set
    held: pd.DataFrame  # group_name, and n in the hard set of the first and of the kept epoch: columns first, kept
    # outer loss
    history: pd.DataFrame  # epoch, outer_loss, val_worst_group, val_worst_class, kept

    @property
    def kept_epoch(self) -> int:
        return int(self.history.loc[self.history["kept"], "epoch"].iloc[0])


@styled()
def draw_method(data: MethodData) -> Figure:
    """The panels clockwise, as the method goes through them, with an arrow from each to the next."""
    stack = stacking(data.held.set_index("group_name")[["first", "kept"]].T, data.groups)
    looks = {name: look for names, _, look in stack for name in names}
    # layout="none" would give way to the style's at the second save
    figure = Figure(figsize=(WIDTH, HEIGHT), layout=PlaceHolderLayoutEngine(True, True))
    right, upper = WIDTH - EDGE - PANEL[0], HEIGHT - 0.34 - PANEL[1]
    _support(figure, (EDGE, upper), data, looks)
    _inner_loop(figure, (right, upper), data)
    _hard_set(figure, (right, LEGEND), data, stack, looks)
    _outer_loss(figure, (EDGE, LEGEND), data)
    _arrows(figure, data)
    handles = [Patch(facecolor=look.color, hatch=look.hatch, edgecolor="white", label=name) for _, name, look in stack]
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), fontsize=SMALL, borderaxespad=0.2,
        ncols=4 if max(len(name) for _, name, _ in stack) < 26 else 3, handlelength=1.6, labelspacing=0.25,
        columnspacing=1.4,
    )  # fmt: skip
    figure.text(0.5, 1 - 0.07 / HEIGHT, data.title, ha="center", va="top")
    return figure


class _Panel:
    """A box on the figure with a heading; its axes are placed in inches from its lower left corner."""

    def __init__(self, figure: Figure, x: float, y: float, heading: str, *lines: str):
        self.figure, self.x, self.y = figure, x, y
        look = {"linewidth": 0.8, "edgecolor": "#999999", "facecolor": "#fafafa", "zorder": -1}
        corner, size = (x + 0.06, y + 0.06), (PANEL[0] - 0.12, PANEL[1] - 0.12)
        box = FancyBboxPatch(corner, *size, boxstyle="round,pad=0.06", transform=figure.dpi_scale_trans, **look)
        figure.add_artist(box)
        self.text(0.12, PANEL[1] - 0.11, heading, fontsize=10, fontweight="bold", va="top")
        self.text(0.12, PANEL[1] - 0.32, "\n".join(lines), fontsize=SMALL, va="top")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text((self.x + x) / WIDTH, (self.y + y) / HEIGHT, text, **{"fontsize": SMALL - 0.5, **style})

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        place = ((self.x + x) / WIDTH, (self.y + y) / HEIGHT, width / WIDTH, height / HEIGHT)
        axis = self.figure.add_axes(place, facecolor="none")
        axis.tick_params(labelsize=SMALL - 1, length=2, pad=1.5)
        axis.xaxis.label.set_fontsize(SMALL)
        axis.yaxis.label.set_fontsize(SMALL)
        axis.xaxis.labelpad = 1
        return axis

    def two_axes(self) -> tuple[Axes, Axes]:
        """Axes one above the other, which share their x."""
        upper, lower = (self.axes(0.55, y, PANEL[0] - 0.7, 0.88) for y in (1.44, 0.38))
        for axis in (upper, lower):
            axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4))
        upper.tick_params(labelbottom=False)
        return upper, lower

    def picture(self, x: float, y: float, side: float, picture: np.ndarray, look: Look) -> None:
        axis = self.axes(x, y, side, side)
        axis.imshow(thumbnail(picture))
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color=look.color, linewidth=1.5)


def _support(figure: Figure, place: tuple[float, float], data: MethodData, looks: Mapping[str, Look]) -> None:
    per_class = data.settings["support_draw"] == "per_class"
    drawn = f"{data.settings['support_per_class']} of each class" if per_class else "drawn over all classes"
    size = f"{data.support_size} training images, {drawn}:"
    panel = _Panel(figure, *place, "1  Support", size, "their features H are learnt, their labels stay")
    side, step, top = 0.4, 1.5, PANEL[1] - 0.72
    for number, (name, pictures) in enumerate(data.pictures.items()):
        down, across = divmod(number, 2)
        x, y = 0.14 + step * across, top - 0.58 * down
        panel.text(x, y, textwrap.shorten(name, 27, placeholder=" …"), va="bottom")
        for place, picture in enumerate(pictures):
            panel.picture(x + 0.46 * place, y - side - 0.03, side, picture, looks.get(name, OTHER_GROUPS))
    lines = -(-len(data.pictures) // 2)
    axis = panel.axes(0.4, 0.34, PANEL[0] - 0.55, PANEL[1] - 1.0 - 0.58 * lines - 0.02)
    plot_edits(axis, data.points, data.before, data.after, data.names, looks)
    frame_around(axis, np.concatenate([*data.points.values(), data.before]))
    axis.grid(visible=False)
    axis.set(xticks=[], yticks=[], ylabel=data.labels[1].removeprefix("along the "))
    axis.set_xlabel(f"{data.labels[0]} (circles: as drawn, lines: edits)", fontsize=SMALL - 0.5)


def _inner_loop(figure: Figure, place: tuple[float, float], data: MethodData) -> None:
    steps = data.symbols["T"]
    trial = (
        f"T = {steps} trial steps of \N{GREEK SMALL LETTER ALPHA} = {data.symbols['alpha']:.2g} on the support's loss;"
    )
    moves = "once an epoch T steps of Adam move the head itself"
    panel = _Panel(figure, *place, "2  Inner loop", trial, moves)
    loss, change = panel.two_axes()
    for loop, marker, dash, method in zip(data.loops, ("s", "o"), ("--", "-"), ("erm", "hsfm"), strict=False):
        style = {"color": of_method(method).color, "marker": marker, "linestyle": dash, "markersize": 3}
        style |= {"linewidth": 1.2, "markevery": max(1, steps // 10)}
        loss.plot(range(steps + 1), loop["support_loss"], label=loop["name"], **style)
        change.plot(range(steps + 1), 100 * np.asarray(loop["change"]), **style)
    values = np.concatenate([loop["support_loss"] for loop in data.loops])
    if values.min() > 0 and values.max() > 20 * values.min():
        loss.set_yscale("log")
        loss.yaxis.set_major_formatter(LogFormatter())  # in plain text
        # labels within a decade overlap where there are two decades, which have labels of their own
        few = values.max() < 100 * values.min()
        loss.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.4)) if few else NullFormatter())
    spacing = {"borderaxespad": 0.1, "handlelength": 1.8, "columnspacing": 1.0}
    loss.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2, fontsize=SMALL - 0.5, **spacing)
    loss.set(ylabel="support loss")
    change.set(ylabel="head moved (%)", xlabel="step")
    change.set_ylim(bottom=0)


def _hard_set(figure: Figure, place: tuple[float, float], data: MethodData, stack: Stack, looks: Mapping) -> None:
    when = "each epoch anew" if data.settings["refresh"] == "epoch" else "once, at the start"
    name, kind, how = "Hard", " with the highest loss", "under the current head"
    if data.settings["outer_set"] == "random":
        name, kind, how = "Random", "", "drawn at random"
    elif data.settings["outer_set"] == "inferred":
        name, kind, how = "Balanced", ", half of them minority", "by inferred groups"
    size = data.settings["hard_per_class"]
    sizes = str(size) if isinstance(size, int) else " and ".join(map(str, size))
    each = f"{sizes} validation images of each class{kind}"
    panel = _Panel(figure, *place, f"3  {name} set", each, f"{how}, {when}")
    if data.hardest:
        panel.text(0.14, PANEL[1] - 0.76, "the hardest of epoch 1 and their loss", va="bottom")
        for number, (picture, value, group) in enumerate(data.hardest[: 2 * COLUMNS]):
            down, across = divmod(number, COLUMNS)
            x, y = 0.14 + 0.76 * across, PANEL[1] - 1.3 - 0.68 * down
            panel.picture(x, y, 0.5, picture, looks.get(group, OTHER_GROUPS))
            panel.text(x + 0.25, y - 0.02, f"{value:.1f}", ha="center", va="top")
    _held(panel.axes(0.14, 0.2, PANEL[0] - 0.28, 0.62), data, stack)


def _held(bars: Axes, data: MethodData, stack: Stack) -> None:
    """A bar of the groups in the hard set of the first, and one of the kept epoch."""
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for place, (column, name) in enumerate((("first", "epoch 1"), ("kept", f"epoch {data.kept_epoch}, kept"))):
        held, left = data.held.set_index("group_name")[column], 0.0
        for names, _, look in stack:
            width = held.reindex(names).sum() / held.sum()
            bars.barh(-place, width, 0.5, left, facecolor=look.color, hatch=look.hatch, edgecolor="white", linewidth=0)
            if width > 0.1:
                style = {"ha": "center", "va": "center", "fontsize": SMALL - 0.5, "bbox": box}
                bars.text(left + width / 2, -place, f"{100 * width:.0f} %", **style)
            left += width
        bars.text(0, -place + 0.3, f"{name}: {held.sum():.0f} images", fontsize=SMALL - 0.5, va="bottom")
    bars.set(xlim=(0, 1), ylim=(-1.35, 0.7))
    bars.set_axis_off()


def _outer_loss(figure: Figure, place: tuple[float, float], data: MethodData) -> None:
    kind = {"random": "random", "inferred": "balanced"}.get(data.settings["outer_set"], "hard")
    mean = f"the adapted heads' mean loss on the {kind} set;"
    panel = _Panel(figure, *place, "4  Outer loss", mean, "the best epoch on validation is kept")
    history, look = data.history, of_method("hsfm")
    worst = "val_worst_group" if history["val_worst_group"].notna().any() else "val_worst_class"
    words = worst.removeprefix("val_").replace("_", " ")
    axes = panel.two_axes()
    kept = history["kept"].to_numpy()
    for axis, values, label, text in (
        (axes[0], history["outer_loss"], "outer loss", "{:.3g}"),
        (axes[1], 100 * history[worst], f"{words} (%)", "{:.1f}"),
    ):
        axis.plot(history["epoch"], values, color=look.color, linewidth=1.2)
        axis.plot(data.kept_epoch, values[kept], look.marker, color=look.color, markersize=6, markeredgecolor="black")
        axis.axvline(data.kept_epoch, color="black", linewidth=0.6, linestyle=":")
        axis.set_ylabel(label)
        axis.margins(y=0.15)
        if np.isfinite(value := values[kept].iloc[0]):
            axis.set_title(f"epoch {data.kept_epoch}: {text.format(value)}", fontsize=SMALL, loc="right", pad=2)
    axes[1].set_xlabel("epoch")


def _arrows(figure: Figure, data: MethodData) -> None:
    """From panel to panel, with a text on each."""
    left, right = EDGE + PANEL[0], WIDTH - EDGE - PANEL[0]
    low, high = LEGEND + PANEL[1], HEIGHT - 0.34 - PANEL[1]
    upper, lower = high + PANEL[1] / 2, LEGEND + PANEL[1] / 2
    across_left, across_right, middle = EDGE + 0.5, right + 0.5, (low + high) / 2
    first, later = (f"{loop['outer_loss']:.2f}" for loop in data.loops)
    adapted = f"the adapted head: outer loss\n{first} in epoch 1, {later} after epoch {data.kept_epoch}"
    gradient = f"gradient through all steps, by Adam with η = {data.symbols['eta']:.2g}\nto H; "
    gradient += f"Kₕ = {data.symbols['K_H']} times an epoch"
    above, beside = {"ha": "center", "va": "bottom"}, {"va": "center"}
    for start, end, place, text, style in (
        ((left, upper), (right, upper), (WIDTH / 2, upper + 0.1), "H and\nlabels", above),
        ((across_right, high), (across_right, low), (across_right + 0.12, middle), adapted, beside),
        ((right, lower), (left, lower), (WIDTH / 2, lower + 0.1), "its\nlosses", above),
        ((across_left, low), (across_left, high), (across_left + 0.12, middle), gradient, beside),
    ):
        look = {"color": of_method("hsfm").color, "linewidth": 0, "shrinkA": 1, "shrinkB": 1}
        shape = "simple,head_width=9,head_length=7,tail_width=3"
        figure.add_artist(FancyArrowPatch(start, end, arrowstyle=shape, transform=figure.dpi_scale_trans, **look))
        figure.text(place[0] / WIDTH, place[1] / HEIGHT, text, fontsize=SMALL - 0.5, **style)

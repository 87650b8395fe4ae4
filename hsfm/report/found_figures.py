"""Figure of inferred groups: scores with their mixture; and which images of each group to show. Knows no torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsfm.report.figures import legend_below, panels
from hsfm.report.style import MARKED, of_group, styled

FOUND = ("image_id", "y", "score", "posterior", "found")  # columns of groups_found
BINS = 40
SHOWN_CLASSES = 9  # panels; of more classes, those with most inferred minority rows
SHOWN_IMAGES = 8  # of a group
LINES = ("-", "--", ":", "-.")  # of true attributes


def kinds(found: pd.DataFrame) -> pd.Series:
    """Whether a row's inferred attribute goes with its class: `own`, or with another one: `other`."""
    return (found["found"] == found["y"]).map({True: "own", False: "other"})


@styled()
def draw_found_groups(found: pd.DataFrame, mixture: Mapping[str, Any], title: str) -> Figure:
    """A panel per class: the scores by inferred attribute, lines of those by true attribute, and the mixture.

    found: y, score, found, and where it is known attribute (a number of attribute_names). mixture: class_names,
    attribute_names, centers [c c] and prior [c c] (rows are classes, columns clouds) and spread [c], in the score's
    unit.
    """
    other = (kinds(found) == "other").groupby(found["y"]).sum()
    classes = sorted(other.sort_values(ascending=False, kind="stable").index[:SHOWN_CLASSES])
    if len(other) > len(classes):
        title += f"; {len(classes)} of {len(other)} classes"
    figure, axes = panels(len(classes), 3.2, 2.4)
    for axis, y in zip(axes, classes, strict=True):
        _draw_class(axis, y, found[found["y"] == y], mixture)
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("validation images")
    legend_below(figure, ncols=3)
    figure.suptitle(title)
    return figure


def _draw_class(axis: Axes, y: int, rows: pd.DataFrame, mixture: Mapping[str, Any]) -> None:
    centers, spread, prior = (np.asarray(mixture[name])[y] for name in ("centers", "spread", "prior"))
    ends = [*(centers - 4 * spread), *(centers + 4 * spread)]
    edges = np.linspace(max(min(ends), -6), min(max(ends), 7), BINS + 1)
    score, kind = rows["score"].clip(edges[0], edges[-1]), kinds(rows)
    for number, (name, label) in enumerate((("own", "inferred: its class's"), ("other", "inferred: another class's"))):
        look = of_group(2 * number)
        style = {"color": look.color, "alpha": 0.45, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
        axis.hist(score[kind == name], edges, label=label, **style)
    if "attribute" in rows:
        for number, name in enumerate(mixture["attribute_names"]):
            style = {"histtype": "step", "color": "black", "linewidth": 1, "linestyle": LINES[number % len(LINES)]}
            axis.hist(score[rows["attribute"] == number], edges, label=f"true: {name}", **style)
    place = np.linspace(edges[0], edges[-1], 400)
    each = prior * np.exp(-0.5 * ((place[:, None] - centers) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    height = len(rows) * (edges[1] - edges[0]) * each.sum(1)
    axis.plot(place, height, color=MARKED, linewidth=1.2, label="mixture of train's clouds")
    # a minority of one in twenty is a line at the foot of a linear axis
    axis.set_yscale("log")
    most = max(axis.dataLim.y1, height.max())
    axis.set(title=mixture["class_names"][y], xlabel="score", ylim=(0.5, 2 * most), xlim=(edges[0], edges[-1]))


def said(facts: Mapping[str, Any]) -> str:
    """The branch that was taken, and how sure it is."""
    auroc = f"; AUROC of the minority {facts['auroc']:.3f}" if "auroc" in facts else ""
    return f"{facts['branch']}\np of one cloud {facts['p_gate']:.2g}, of wrong labels {facts['p_guard']:.2g}{auroc}"


def shown_rows(found: pd.DataFrame) -> dict[tuple[int, int], pd.DataFrame]:
    """Of each inferred group, by y and found, rows at even ranks from the surest to the least sure."""
    chosen = {}
    for (y, value), part in found.groupby(["y", "found"]):
        order = part.sort_values("posterior", ascending=y != value, kind="stable")
        ranks = np.linspace(0, len(order) - 1, min(SHOWN_IMAGES, len(order))).round().astype(int)
        chosen[y, value] = order.iloc[ranks]
    return chosen


def found_pictures(
    found: pd.DataFrame, facts: Mapping[str, Any], pictures: Callable[[Sequence[str]], list[np.ndarray]]
) -> dict[str, list[tuple[np.ndarray, str, bool]]]:
    """Images by group name as `draw_found_images` takes them: those of the wrong side are stressed.

    pictures: from image ids. Without true attributes there are no texts.
    """
    names, sizes, groups = facts["class_names"], found.groupby(["y", "found"]).size(), {}
    for (y, value), rows in shown_rows(found).items():
        kind = "as most of its class" if y == value else f"like {names[value]}"
        texts, wrong = [""] * len(rows), [False] * len(rows)
        if "attribute" in found:
            texts = [facts["attribute_names"][attribute] for attribute in rows["attribute"]]
            wrong = list(rows["minority"] != (y != value))
        shown = zip(pictures(list(rows["image_id"])), texts, wrong, strict=True)
        groups[f"{names[y]}, {kind}, {sizes[y, value]} images"] = list(shown)
    return groups

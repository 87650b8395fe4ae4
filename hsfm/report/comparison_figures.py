"""Scatter plots of all methods: worst group against average, and against computing time."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsfm.core.text import duration
from hsfm.report.costs import VARIANTS
from hsfm.report.figures import WIDTH, spread_out, within
from hsfm.report.names import method_label
from hsfm.report.style import of_method, styled
from hsfm.report.tables import METRICS

ROUND_TIMES = [
    *(0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30)),
    *(3600.0 * hours for hours in (1, 2, 5, 10)),
    *(86400.0 * days for days in (1, 2, 5, 10, 20, 50)),
]  # seconds
ROOM = 0.09  # between two labels, of the height of the axes


def draw_tradeoff(summary: pd.DataFrame, aggregated: pd.DataFrame, title: str) -> Figure:
    """Worst group (worst class where no group is known) against average, a marker per method.

    summary, aggregated: of one dataset, as `tables` makes them. Bars are the deviation over seeds or runs, dots
    the single heads. No point can lie above the diagonal.
    """
    measure = worst_of(aggregated)
    rows = aggregated.set_index("method")
    with styled(rows.index):
        figure = Figure(figsize=(WIDTH, 3.8))
        axis = figure.subplots()
        for method, row in rows.iterrows():
            _heads(axis, summary, method, "average", measure)
            _point(axis, method, row["average_percent"], row, measure, row["average_deviation"])
        _room(axis, "xy")
        low = min(axis.get_xlim()[0], axis.get_ylim()[0])
        axis.autoscale(False)
        axis.plot([low, 100], [low, 100], ":", color="#888888", linewidth=1, zorder=0)
        axis.set_xlabel("test average (%)")
        axis.set_ylabel(f"test {METRICS[measure]} (%)")
        _label(
            axis,
            {
                method: (row["average_percent"], row[f"{measure}_percent"], f"{row[f'{measure}_percent']:.1f}")
                for method, row in rows.iterrows()
            },
        )
        figure.suptitle(title)
        return figure


def draw_time(aggregated: pd.DataFrame, seconds: pd.DataFrame, title: str) -> Figure:
    """Worst group (worst class where no group is known) against the time from the images to a head.

    aggregated: of one dataset, as `tables` makes it. seconds: of the same, columns run, method and seconds, a mean
    over whose runs is drawn; methods without a time are named below the axes.
    """
    measure = worst_of(aggregated)
    rows = aggregated.set_index("method")
    times = seconds.groupby("method")["seconds"].mean()
    times = {method: times.get(VARIANTS.get(method, method), np.nan) for method in rows.index}
    timed = {method: time for method, time in times.items() if time > 0}
    with styled(rows.index):
        figure = Figure(figsize=(WIDTH, 3.8))
        axis = figure.subplots()
        axis.set_xscale("log")
        for method, time in timed.items():
            _point(axis, method, time, rows.loc[method], measure)
        if timed:
            _room(axis, "y")
            low, high = min(timed.values()) / 1.2, max(timed.values()) * 1.2
            # the round times around all, so that there are two at least
            first = max((time for time in ROUND_TIMES if time <= low), default=low)
            last = min((time for time in ROUND_TIMES if time >= high), default=high)
            axis.set_xlim(first / 1.05, last * 1.05)
            ticks = [time for time in ROUND_TIMES if first <= time <= last]
            axis.set_xticks(ticks, [duration(time) for time in ticks])
            axis.set_xticks([], minor=True)
            shown = rows[f"{measure}_percent"]
            _label(
                axis, {m: (time, shown[m], f"{shown[m]:.1f}, {duration(time)}") for m, time in timed.items()}
            )  # fmt: skip
        else:
            axis.text(0.5, 0.5, "the logs hold no times", ha="center", va="center", transform=axis.transAxes)
            axis.set_xticks([])
        missing = [method_label(method) for method in times if method not in timed]
        without = f"\nwithout a time: {', '.join(missing)}" if missing and timed else ""
        axis.set_xlabel(f"time from the images to a head{without}")
        axis.set_ylabel(f"test {METRICS[measure]} (%)")
        figure.suptitle(title)
        return figure


def worst_of(aggregated: pd.DataFrame) -> str:
    """The lowest accuracy that is known: of groups, or of classes where some test image has no group."""
    return "worst_group" if aggregated["worst_group_percent"].notna().all() else "worst_class"


def _point(axis: Axes, method: str, x: float, row: pd.Series, measure: str, x_deviation: float | None = None) -> None:
    look = of_method(method)
    across = None if x_deviation is None or np.isnan(x_deviation) else x_deviation
    deviation = row[f"{measure}_deviation"]
    axis.errorbar(
        x, row[f"{measure}_percent"], None if np.isnan(deviation) else deviation, across, fmt=look.marker,
        color=look.color, markersize=8, markeredgecolor="black", markeredgewidth=0.6, elinewidth=1,
    )  # fmt: skip


def _heads(axis: Axes, summary: pd.DataFrame, method: str, across: str, up: str) -> None:
    own = summary[summary["method"] == method]
    if len(own) > 1:
        axis.plot(100 * own[across], 100 * own[up].astype(float), ".", color=of_method(method).color, markersize=3)


def _room(axis: Axes, which: str) -> None:
    """Some space around the points, and no less than a point in a hundred in all."""
    for name in which:
        low, high = getattr(axis, f"get_{name}lim")()
        middle, half = (low + high) / 2, max((high - low) / 2 * 1.08, 1.0)
        getattr(axis, f"set_{name}lim")(middle - half, middle + half)


def _label(axis: Axes, points: Mapping[str, tuple[float, float, str]]) -> None:
    """Names beside the axes, as high as their points if they have room, with a line to each; points: x, y, text."""
    low, high = axis.get_ylim()
    heights = [(y - low) / (high - low) for _, y, _ in points.values()]
    for (method, (x, y, text)), height in zip(points.items(), within(spread_out(heights, ROOM), 0.0, 1.0), strict=True):
        look = of_method(method)
        axis.annotate(
            "", (x, y), (1.025, height), textcoords="axes fraction", annotation_clip=False, zorder=1,
            arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.6, "alpha": 0.7, "shrinkB": 4},
        )  # fmt: skip
        axis.plot(
            1.03, height, look.marker, color=look.color, markersize=6, markeredgecolor="black", markeredgewidth=0.6,
            transform=axis.transAxes, clip_on=False,
        )  # fmt: skip
        axis.text(1.055, height, f"{method_label(method)}  {text}", va="center", fontsize=8, transform=axis.transAxes)

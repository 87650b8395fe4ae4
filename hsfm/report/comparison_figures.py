"""Scatter plots of all methods: worst group against average, and against computing time."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hsfm.core.text import duration
from hsfm.report.figures import WIDTH
from hsfm.report.names import method_label
from hsfm.report.style import of_method, styled
from hsfm.report.tables import METRICS


def draw_tradeoff(summary: pd.DataFrame, aggregated: pd.DataFrame, title: str) -> Figure:
    """Worst group (worst class where no group is known) against average, a marker per method.

    summary, aggregated: of one dataset, as `tables` makes them. Bars are the deviation over seeds or runs, dots
    the single heads. No point can lie above the diagonal.
    """
    measure = worst_of(aggregated)
    rows = aggregated.set_index("method")
    figure = _scatter(rows, measure, rows["average_percent"], rows["average_deviation"], f"{{{measure}_percent:.1f}}")
    (axis,) = figure.axes
    with styled(rows.index):
        for method, own in summary.groupby("method", sort=False):
            if len(own) > 1:
                heads = 100 * own[["average", measure]].astype(float)
                axis.plot(*heads.to_numpy().T, ".", color=of_method(method).color, markersize=3)
        axis.margins(0.08)
        low = min(axis.get_xlim()[0], axis.get_ylim()[0])
        axis.autoscale(False)
        axis.plot([low, 100], [low, 100], ":", color="#888888", linewidth=1, zorder=0)
        axis.set_xlabel("test average (%)")
        figure.suptitle(title)
    return figure


def draw_time(aggregated: pd.DataFrame, seconds: pd.DataFrame, title: str) -> Figure:
    """Worst group (worst class where no group is known) against the time from the images to a head.

    aggregated: of one dataset, as `tables` makes it. seconds: of the same, columns run, method and seconds, a mean
    over whose runs is drawn; methods without a time are named below the axes.
    """
    rows = aggregated.set_index("method").assign(seconds=seconds.groupby("method")["seconds"].mean())
    timed = rows[rows["seconds"] > 0].assign(took=lambda timed: timed["seconds"].map(duration))
    measure = worst_of(aggregated)
    figure = _scatter(timed, measure, timed["seconds"], None, f"{{{measure}_percent:.1f}}, {{took}}")
    (axis,) = figure.axes
    with styled():
        if timed.empty:
            axis.text(0.5, 0.5, "the logs hold no times", ha="center", va="center", transform=axis.transAxes)
            axis.set_xticks([])
        else:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(60, subs=(1, 2, 5, 10, 20, 30)))
            axis.xaxis.set_major_formatter(lambda time, _: duration(time))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlim(timed["seconds"].min() / 2, timed["seconds"].max() * 2)
        missing = ", ".join(method_label(method) for method in rows.index.difference(timed.index, sort=False))
        axis.set_xlabel("time from the images to a head" + (f"\nwithout a time: {missing}" if missing else ""))
        figure.suptitle(title)
    return figure


def worst_of(aggregated: pd.DataFrame) -> str:
    """The lowest accuracy that is known: of groups, or of classes where some test image has no group."""
    return "worst_group" if aggregated["worst_group_percent"].notna().all() else "worst_class"


def _scatter(rows: pd.DataFrame, measure: str, x: pd.Series, x_deviation: pd.Series | None, text: str) -> Figure:
    """A marker with bars per method, and a legend from the highest to the lowest. text: with columns of rows in it."""
    with styled(rows.index):
        figure = Figure(figsize=(WIDTH, 3.8))
        axis = figure.subplots()
        for method, row in rows.sort_values(f"{measure}_percent", kind="stable").iterrows():
            look, y = of_method(method), row[f"{measure}_percent"]
            across = np.nan if x_deviation is None else x_deviation[method]
            axis.errorbar(
                x[method], y, row[f"{measure}_deviation"], across, fmt="none", ecolor=look.color, elinewidth=1
            )
            style = {"color": look.color, "markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.6}
            axis.plot(x[method], y, look.marker, label=f"{method_label(method)}  {text.format(**row)}", **style)
        axis.margins(y=0.08)
        axis.set_ylabel(f"test {METRICS[measure]} (%)")
        if len(rows):
            handles, labels = axis.get_legend_handles_labels()
            figure.legend(handles[::-1], labels[::-1], loc="outside right upper", labelspacing=1.0)
        return figure

"""Figures of the studies: data frames in, matplotlib figures out. Knows no torch."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsfm.report.figures import WIDTH, legend_below, panels
from hsfm.report.names import method_label
from hsfm.report.study_tables import RULES, summarize_bias, summarize_sweep, swept_in
from hsfm.report.style import of_method, styled
from hsfm.report.tables import METRICS


def draw_study(study: str, rows: pd.DataFrame, dataset: str) -> Figure:
    """The figure of a study of one dataset. rows: of `sweep` or `validation_bias`."""
    if study == "sweep":
        return draw_sweep(rows, f"{dataset}: HSFM under {rows['setting'].nunique()} settings")
    return draw_bias(summarize_bias(rows), f"{dataset}: fitted on validation splits of growing bias")


@styled()
def draw_sweep(sweep: pd.DataFrame, title: str) -> Figure:
    """Test accuracy of every setting against each value that was swept, a panel per setting of HSFM.

    Dots are settings, lines their medians, bands from the lower to the upper quartile; the star is the setting that is
    best on validation.
    """
    rule = next(rule for rule in RULES if (sweep["rule"] == rule).any())
    part = sweep[sweep["rule"] == rule]
    swept = [name for name in swept_in(part.columns) if len(set(part[name])) > 1]
    best = part[part["setting"] == summarize_sweep(part).set_index("choice").loc["best on validation", "setting"]]
    figure, axes = panels(len(swept), 2.7, 2.1, sharey=True)
    for axis, name in zip(axes, swept, strict=True):
        _panel(axis, part, best, name, rule)
    legend_below(figure, ncols=3)
    figure.suptitle(title)
    return figure


def _panel(axis: Axes, part: pd.DataFrame, best: pd.DataFrame, name: str, rule: str) -> None:
    values = sorted(part[name].unique())
    places = range(len(values))
    rng = np.random.default_rng(0)  # of the dots' sideways shifts
    for measure, color, marker in (("average", of_method("erm").color, "s"), (rule, of_method("hsfm").color, "o")):
        scores = 100 * part[f"test_{measure}"]
        x = part[name].map(values.index) + rng.uniform(-0.18, 0.18, len(part))
        axis.plot(x, scores, ".", color=color, alpha=0.35, markersize=3, markeredgewidth=0)
        low, median, high = (scores.groupby(part[name]).quantile(q) for q in (0.25, 0.5, 0.75))
        axis.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
        label = f"test {METRICS[measure]}, median"
        axis.plot(places, median, f"{marker}-", color=color, linewidth=1.5, markersize=4, label=label)
    star, height = values.index(best[name].iloc[0]), 100 * best[f"test_{rule}"].mean()
    axis.plot(star, height, "*", color="black", markersize=9, label="best on validation")
    axis.set_xticks(places, [f"{value:g}" for value in values], fontsize=7)
    axis.set_xlabel(name)
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel("accuracy (%)")


@styled()
def draw_bias(summary: pd.DataFrame, title: str) -> Figure:
    """Worst group and average on test against the agreement of the validation subsample, a line per method."""
    figure = Figure(figsize=(WIDTH, 3.6))
    for axis, measure in zip(figure.subplots(1, 2), ("worst_group", "average"), strict=True):
        for method, part in summary.groupby("method", sort=False):
            x, y = 100 * part["agreement"], part[f"test_{measure}_percent"]
            spread = part[f"test_{measure}_deviation"].fillna(0)
            look, line = of_method(method), "--" if method == "hsfm_capped" else "-"
            label = f"{method_label(method)} ({part['sees'].iloc[0]})"
            axis.plot(x, y, f"{look.marker}{line}", color=look.color, markersize=4.5, label=label)
            axis.fill_between(x, y - spread, y + spread, color=look.color, alpha=0.12, linewidth=0)
        axis.set_xticks(100 * summary["agreement"].unique())
        axis.set(xlabel="majority images in validation (%)", ylabel=f"test {METRICS[measure]} (%)")
    legend_below(figure, ncols=2)
    figure.suptitle(title)
    return figure

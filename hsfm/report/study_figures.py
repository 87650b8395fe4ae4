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


def draw_bias(summary: pd.DataFrame, title: str) -> Figure:
    """Test worst group, and its difference to DFR's, against the agreement of validation, a line per method.

    Bars are two standard errors over draws to either side.
    """
    with styled(summary["method"].unique()):
        figure = Figure(figsize=(WIDTH, 4.6))
        columns = {"test_worst_group": "test worst group (%)", "over_dfr": "worst group less DFR's (points)"}
        for axis, (measure, label) in zip(figure.subplots(1, 2), columns.items(), strict=True):
            for method, part in summary.groupby("method", sort=False):
                if f"{measure}_percent" not in part:
                    continue
                x, y, error = (
                    100 * part["agreement"],
                    part[f"{measure}_percent"],
                    2 * part[f"{measure}_error"].fillna(0),
                )
                look, line = of_method(method), "--" if method == "hsfm_capped" else "-"
                style = {"color": look.color, "markersize": 4, "label": method_label(method)}
                axis.plot(x, y, marker=look.marker, linestyle=line, **style)
                axis.vlines(x, y - error, y + error, color=look.color, linewidth=0.8, alpha=0.6)
            axis.set_xticks(100 * summary["agreement"].unique())
            axis.tick_params(axis="x", labelsize=7)
            axis.set(xlabel="majority images in validation (%)", ylabel=label)
        legend_below(figure, ncols=3)
        figure.suptitle(title)
        return figure

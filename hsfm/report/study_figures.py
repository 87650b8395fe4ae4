"""Figures of the studies: data frames in, matplotlib figures out. Knows no torch."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsfm.report.figures import WIDTH
from hsfm.report.names import method_label
from hsfm.report.study_tables import RULES, summarize_bias, summarize_sweep, swept_in
from hsfm.report.style import of_method, styled
from hsfm.report.tables import METRICS


def draw_study(study: str, rows: pd.DataFrame, dataset: str) -> Figure:
    """The figure of a study of one dataset. rows: of `sweep` or `validation_bias`."""
    if study == "sweep":
        return draw_sweep(rows, f"{dataset}: HSFM under {rows['setting'].nunique()} settings")
    return draw_bias(summarize_bias(rows), f"{dataset}: fitted on validation splits of growing bias")


def draw_sweep(sweep: pd.DataFrame, title: str) -> Figure:
    """Test accuracy of every setting against each value that was swept, a panel per setting of HSFM.

    Dots are settings, lines their medians, bands from the lower to the upper quartile; the star is the setting that is
    best on validation.
    """
    rule = next(rule for rule in RULES if (sweep["rule"] == rule).any())
    part = sweep[sweep["rule"] == rule]
    swept = [name for name in swept_in(part.columns) if len(part[name].unique()) > 1]
    summary = summarize_sweep(part)
    best = part[part["setting"] == summary.loc[summary["choice"] == "best on validation", "setting"].iloc[0]]
    columns = min(3, max(1, len(swept)))
    lines = -(-max(1, len(swept)) // columns)
    with styled():
        figure = Figure(figsize=(min(WIDTH, 2.7 * columns + 0.5), 2.1 * lines + 0.6))
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
        for axis, name in zip(axes, swept, strict=False):
            _panel(axis, part, best, name, rule)
        for axis in list(axes)[len(swept) :]:
            axis.set_axis_off()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=3, loc="outside lower center")
        figure.suptitle(title)
        return figure


def _panel(axis: Axes, part: pd.DataFrame, best: pd.DataFrame, name: str, rule: str) -> None:
    values = sorted(part[name].unique())
    rng = np.random.default_rng(0)  # of the dots' sideways shifts
    for measure, color, marker in (("average", of_method("erm").color, "s"), (rule, of_method("hsfm").color, "o")):
        column = f"test_{measure}"
        for place, value in enumerate(values):
            scores = 100 * part.loc[part[name] == value, column]
            x = place + rng.uniform(-0.18, 0.18, len(scores))
            axis.plot(x, scores, ".", color=color, alpha=0.35, markersize=3, markeredgewidth=0)
        quartiles = [100 * part.loc[part[name] == value, column].quantile([0.25, 0.75]) for value in values]
        axis.fill_between(range(len(values)), *zip(*quartiles, strict=True), color=color, alpha=0.15, linewidth=0)
        medians = [100 * part.loc[part[name] == value, column].median() for value in values]
        axis.plot(
            range(len(values)), medians, f"{marker}-", color=color, linewidth=1.5, markersize=4,
            label=f"test {METRICS[measure]}, median",
        )  # fmt: skip
    axis.plot(
        values.index(best[name].iloc[0]), 100 * best[f"test_{rule}"].mean(), "*", color="black", markersize=9,
        label="best on validation",
    )  # fmt: skip
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values], fontsize=7)
    axis.set_xlabel(name)
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel("accuracy (%)")


def draw_bias(summary: pd.DataFrame, title: str) -> Figure:
    """Worst group and average on test against the agreement of the validation subsample, a line per method."""
    with styled():
        figure = Figure(figsize=(WIDTH, 3.6))
        axes = figure.subplots(1, 2)
        for axis, measure in zip(axes, ("worst_group", "average"), strict=True):
            for method, part in summary.groupby("method", sort=False):
                x, y = 100 * part["agreement"], part[f"test_{measure}_percent"]
                spread = part[f"test_{measure}_deviation"].fillna(0)
                look = of_method(method)
                axis.plot(
                    x, y, f"{look.marker}{'--' if method == 'hsfm_capped' else '-'}", color=look.color, markersize=4.5,
                    label=f"{method_label(method)} ({part['sees'].iloc[0]})",
                )  # fmt: skip
                axis.fill_between(x, y - spread, y + spread, color=look.color, alpha=0.12, linewidth=0)
            axis.set_xticks(100 * summary["agreement"].unique())
            axis.set_xlabel("majority images in validation (%)")
            axis.set_ylabel(f"test {METRICS[measure]} (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="outside lower center")
        figure.suptitle(title)
        return figure

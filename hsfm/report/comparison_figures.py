"""Scatter plot of all methods: worst group against average."""

import pandas as pd
from matplotlib.figure import Figure

from hsfm.report.figures import WIDTH
from hsfm.report.names import method_label
from hsfm.report.style import of_method, styled
from hsfm.report.tables import METRICS


def draw_tradeoff(summary: pd.DataFrame, aggregated: pd.DataFrame, dataset: str) -> Figure:
    """Worst group (worst class where no group is known) against average, a marker per method.

    summary, aggregated: of one dataset, as `tables` makes them. Bars are the deviation over seeds or runs, dots
    the single heads. No point can lie above the diagonal.
    """
    measure = "worst_group" if aggregated["worst_group_percent"].notna().all() else "worst_class"
    rows = aggregated.set_index("method").sort_values(f"{measure}_percent", kind="stable")
    with styled(aggregated["method"]):
        figure = Figure(figsize=(WIDTH, 3.8))
        axis = figure.subplots()
        for method, row in rows.iterrows():
            look, x, y = of_method(method), row["average_percent"], row[f"{measure}_percent"]
            spreads = {"yerr": row[f"{measure}_deviation"], "xerr": row["average_deviation"]}
            axis.errorbar(x, y, **spreads, fmt="none", ecolor=look.color, elinewidth=1)
            style = {"color": look.color, "markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.6}
            axis.plot(x, y, look.marker, label=f"{method_label(method)}  {y:.1f}", **style)
        for method, own in summary.groupby("method", sort=False):
            if len(own) > 1:
                heads = 100 * own[["average", measure]].astype(float)
                axis.plot(*heads.to_numpy().T, ".", color=of_method(method).color, markersize=3)
        axis.margins(0.08)
        low = min(axis.get_xlim()[0], axis.get_ylim()[0])
        axis.autoscale(False)
        axis.plot([low, 100], [low, 100], ":", color="#888888", linewidth=1, zorder=0)
        axis.set(xlabel="test average (%)", ylabel=f"test {METRICS[measure]} (%)")
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", labelspacing=1.0)
        figure.suptitle(f"{dataset}: {METRICS[measure]} against average")
        return figure

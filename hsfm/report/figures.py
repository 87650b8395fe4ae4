"""Figures of training, scores and hard sets, and what all figures share: data frames in, matplotlib figures out."""

import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hsfm.core.files import write_atomically
from hsfm.report.fonts import give_fonts
from hsfm.report.names import method_label
from hsfm.report.style import GROUP_LOOKS, OTHER_GROUPS, Look, of_group, of_method, styled
from hsfm.report.tables import METRICS

WIDTH = 7.0  # inches of a figure that fills a page; shown at 700 pixels, its text is as large as the page's
SHOWN_GROUPS = 8  # more do not fit side by side


def save(figure: Figure, *paths: str | Path) -> None:
    """Write as the suffixes say (.png, .pdf), without the date, so that equal figures are equal files."""
    give_fonts(figure)
    for path in paths:
        suffix = Path(path).suffix.removeprefix(".")
        metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
        smaller = {"pil_kwargs": {"compress_level": 9}} if suffix == "png" else {}
        with write_atomically(path) as temporary, styled(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # said where labels are read
            figure.savefig(temporary, format=suffix, metadata=metadata, **smaller)


def panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of panels, at most three side by side, and some room for a title and a legend, in inches."""
    columns = max(1, min(3, count))
    lines = -(-max(1, count) // columns)
    figure = Figure(figsize=(min(WIDTH, 0.6 + width * columns), 0.8 + height * lines))
    axes = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def legend_below(figure: Figure, **options: Any) -> None:
    """One legend below all axes, with each label once."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", **options)


def frame_around(axis: Axes, points: np.ndarray, *inside: np.ndarray) -> None:
    """Limit the axes to points [n 2] and some room around them, and say how many lie beyond.

    At most to the length of their central 98 % and half of it on either side: an image that a feature stands out in by
    hundreds of deviations would leave no room for the others. inside: further points, which all have to be in.
    """
    low, high = np.quantile(points, (0.01, 0.99), axis=0)
    half = 0.5 * (high - low)
    low, high = np.maximum(points.min(0), low - half), np.minimum(points.max(0), high + half)
    low, high = np.min([low, *(other.min(0) for other in inside)], 0), np.max([high, *(o.max(0) for o in inside)], 0)
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if beyond := int(((points < low) | (points > high)).any(1).sum()):
        place = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "fontsize": "x-small"}
        axis.text(0.99, 0.01, f"{beyond} beyond the frame", **place)


def draw_training(
    erm: pd.DataFrame | None, others: Mapping[str, pd.DataFrame], erm_val_worst: Mapping[int, float], title: str
) -> Figure:
    """ERM's training curves, and every other method's validation worst group by epoch; kept epochs are marked.

    erm: history of every run, with a column `run`, or None where no network was trained. others: likewise, by method,
    with a column `seed`; of one without groups the worst class is drawn.
    erm_val_worst: by run, the worst group of ERM's head, where HSFM starts.
    """
    with styled(others):
        figure, axes = panels((erm is not None) + len(others), 3.2, 2.3)
        if erm is not None:
            _draw_erm(axes.pop(0), erm)
        for axis, (method, history) in zip(axes, others.items(), strict=True):
            _draw_method(axis, method, history, erm_val_worst)
            axis.sharey(axes[0])
            if axis is axes[0] or axis.get_subplotspec().is_first_col():
                axis.set_ylabel("validation worst group (%)")
        legend_below(figure, ncols=3)
        figure.suptitle(title)
        return figure


def _draw_erm(axis: Axes, erm: pd.DataFrame) -> None:
    color = of_method("erm").color
    for column, label, line in (
        ("train_accuracy", "training average", {"color": "#000000"}),
        ("val_average", "validation average", {"color": color, "linestyle": "--"}),
        ("val_worst_group", "validation worst group", {"color": color}),
    ):
        for _, part in erm.groupby("run"):
            axis.plot(part["epoch"], 100 * part[column], linewidth=1.2, label=label, **line)
    _mark_kept(axis, "erm", erm, "val_worst_group")
    _over_epochs(axis, "ERM, a line per run" if len(set(erm["run"])) > 1 else "ERM", "accuracy (%)")


def _draw_method(axis: Axes, method: str, history: pd.DataFrame, erm_val_worst: Mapping[int, float]) -> None:
    grouped = history["val_worst_group"].notna().any()
    worst = "val_worst_group" if grouped else "val_worst_class"
    for run in history["run"].unique() if grouped else ():
        axis.axhline(100 * erm_val_worst[run], color=of_method("erm").color, linestyle=":", label="ERM's head")
    for _, part in history.groupby(["run", "seed"]):
        axis.plot(part["epoch"], 100 * part[worst], color=of_method(method).color, alpha=0.7, linewidth=1)
    _mark_kept(axis, method, history, worst)
    _over_epochs(axis, f"{method_label(method)}{'' if grouped else ', worst class'}, a line per seed", "")


def _mark_kept(axis: Axes, method: str, history: pd.DataFrame, worst: str) -> None:
    kept, look = history[history["kept"]], of_method(method)
    style = {"color": look.color, "marker": look.marker, "linestyle": "none", "markersize": 6}
    style |= {"markeredgecolor": "black"}
    axis.plot(kept["epoch"], 100 * kept[worst], label=f"{method_label(method)}: kept epoch", **style)


def _over_epochs(axis: Axes, title: str, y_label: str) -> None:
    axis.set(title=title, xlabel="epoch", ylabel=y_label)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def draw_groups(scores: pd.DataFrame, title: str) -> Figure:
    """Test accuracy of every group under every method, the group that ERM does worst on first.

    Markers are means over runs and seeds, dots the single heads, bars Wilson's interval of 95 % for as many test images
    as the group has. Of many groups those are shown on which some method is worst.
    """
    from scipy.stats import binomtest  # slow to import

    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    methods = list(dict.fromkeys(test["method"]))
    mean = test.groupby(["group_name", "method"], sort=False)["accuracy"].mean().unstack("method")[methods]
    groups = mean.min(axis=1).sort_values(kind="stable").index[:SHOWN_GROUPS]
    groups = list(mean.loc[groups, "erm" if "erm" in methods else methods[0]].sort_values(kind="stable").index)
    if len(mean) > len(groups):
        title += f"; the {len(groups)} lowest of {len(mean)} groups"
    sizes = test.groupby("group_name")["n"].first()
    width = 0.84 / len(methods)
    with styled(methods):
        figure = Figure(figsize=(WIDTH, 3.6))
        axis = figure.subplots()
        for number, method in enumerate(methods):
            look = of_method(method)
            places = np.arange(len(groups)) + (number - (len(methods) - 1) / 2) * width
            for place, group in zip(places, groups, strict=True):
                right, n = round(mean.loc[group, method] * sizes[group]), int(sizes[group])
                low, high = binomtest(right, n).proportion_ci(method="wilson")
                axis.vlines(place, 100 * low, 100 * high, color=look.color)
                heads = 100 * test.loc[(test["method"] == method) & (test["group_name"] == group), "accuracy"]
                if len(heads) > 1:
                    axis.plot(np.full(len(heads), place + 0.36 * width), heads, ".", color="black", markersize=2)
            style = {"color": look.color, "marker": look.marker, "linestyle": "none", "markersize": 6}
            style |= {"markeredgecolor": "white", "markeredgewidth": 0.5}
            axis.plot(places, 100 * mean.loc[groups, method], label=method_label(method), **style)
        for place in range(1, len(groups), 2):
            axis.axvspan(place - 0.5, place + 0.5, color="#f4f4f4", zorder=0)
        letters = int(6.2 / len(groups) / 0.075)  # of a line between two groups
        axis.set_xticks(range(len(groups)), [f"{_wrapped(group, letters)}\nn = {sizes[group]}" for group in groups])
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.set_ylabel("test accuracy (%)")
        legend_below(figure, ncols=min(len(methods), 6))
        figure.suptitle(title)
        return figure


def _wrapped(group: str, letters: int) -> str:
    return "\n".join(textwrap.fill(part, letters, break_long_words=False) for part in group.split(", "))


def draw_tradeoff(summary: pd.DataFrame, aggregated: pd.DataFrame, dataset: str) -> Figure:
    """Worst group (worst class where no group is known) against average, a marker per method.

    summary, aggregated: of one dataset, as `tables` makes them. Bars are the deviation over seeds or runs, dots
    the single heads. No point can lie above the diagonal.
    """
    measure = "worst_group" if aggregated["worst_group_percent"].notna().all() else "worst_class"
    rows = aggregated.set_index("method").sort_values(f"{measure}_percent", kind="stable")
    with styled(aggregated["method"]):
        figure = Figure(figsize=(WIDTH, max(3.8, 0.26 * len(rows))))
        axis = figure.subplots()
        for method, row in rows.iterrows():
            look, x, y = of_method(method), row["average_percent"], row[f"{measure}_percent"]
            spreads = {"yerr": row[f"{measure}_deviation"], "xerr": row["average_deviation"]}
            axis.errorbar(x, y, **spreads, fmt="none", ecolor=look.color, elinewidth=1)
            style = {"color": look.color, "marker": look.marker, "linestyle": "none", "markersize": 8}
            style |= {"markeredgecolor": "black", "markeredgewidth": 0.6}
            axis.plot(x, y, label=f"{method_label(method)}  {y:.1f}", **style)
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


@styled()
def draw_hard_set(counts: pd.DataFrame, groups: pd.DataFrame, title: str) -> Figure:
    """Composition of HSFM's hard set by group and epoch, mean over runs and seeds, beside that of all of validation.

    counts: run, seed, epoch, group_name and n. groups: group_name, n in validation, and minority (None where unknown),
    in the order of their looks.
    """
    share = counts.groupby(["run", "seed", "epoch", "group_name"])["n"].sum()
    share = (share / share.groupby(["run", "seed", "epoch"]).transform("sum")).unstack("group_name", fill_value=0.0)
    share = 100 * share.groupby("epoch").mean().reindex(columns=groups["group_name"], fill_value=0.0)
    pool = 100 * groups.set_index("group_name")["n"] / groups["n"].sum()
    figure = Figure(figsize=(WIDTH, 3.4))
    axis, whole = figure.subplots(1, 2, sharey=True, width_ratios=[12, 1])
    floor, floor_of_pool = np.zeros(len(share)), 0.0
    for names, name, look in stacking(share, groups):
        height = share[names].sum(axis=1).to_numpy()
        fill = {"facecolor": look.color, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}
        axis.bar(share.index, height, 1.0, floor, **fill)
        text = f"{_wrapped(name, 24)}\n{height[-1]:.0f} % at the end"
        whole.bar(0, pool[names].sum(), 0.8, floor_of_pool, label=text, **fill)
        floor, floor_of_pool = floor + height, floor_of_pool + pool[names].sum()
    handles, texts = whole.get_legend_handles_labels()
    figure.legend(handles[::-1], texts[::-1], loc="outside right center", labelspacing=1.0)
    axis.set_xlim(share.index.min() - 0.5, share.index.max() + 0.5)
    axis.set_ylim(0, 100)
    _over_epochs(axis, title, "share of the hard set (%)")
    whole.set_title("all of\nvalidation")
    whole.set_xticks([])
    for one in (axis, whole):
        one.grid(visible=False)
    return figure


def stacking(share: pd.DataFrame, groups: pd.DataFrame, most: int = GROUP_LOOKS) -> list[tuple[list[str], str, Look]]:
    """Order of stacking, from below: group names, their label, look; minority groups first.

    share: a column per group name. groups: group_name and minority, in their order. Of more than `most` groups those
    with the least of the share are one.
    """
    order = list(groups["group_name"])
    large = order
    if len(order) > most:
        kept = set(share.mean().sort_values(ascending=False, kind="stable").index[: most - 1])
        large = [name for name in order if name in kept]
    looks = {name: of_group(number) for number, name in enumerate(large)}
    rare = set(groups.loc[groups["minority"].fillna(False).astype(bool), "group_name"])
    stack = [([name], name, looks[name]) for name in sorted(large, key=lambda name: name not in rare)]
    rest = [name for name in order if name not in looks]
    return [*stack, (rest, f"{len(rest)} other groups", OTHER_GROUPS)] if rest else stack

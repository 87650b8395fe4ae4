"""Figures of the analysis of support edits: data frames and arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hsfm.report.figures import WIDTH, frame_around, legend_below
from hsfm.report.style import GROUP_LOOKS, OTHER_GROUPS, Look, of_group, styled


@styled()
def draw_plane(
    points: Mapping[str, np.ndarray],
    before: np.ndarray,
    after: np.ndarray,
    names: Sequence[str],
    labels: tuple[str, str],
    title: str,
) -> Figure:
    """Validation images of each group as points, the support as arrows from before to after its edits.

    On the left with all edits, on the right as much as the validation images take. points: by group name, [n 2];
    before, after: [m 2]; names: the group of each support row; labels: of the axes.
    """
    figure = Figure(figsize=(WIDTH, 4.0))
    whole, near = figure.subplots(1, 2)
    for axis, part in ((whole, "all edits"), (near, "where the validation images lie")):
        plot_edits(axis, points, before, after, names, looks_of(list(points)))
        axis.set(xlabel=labels[0], title=part)
        axis.grid(visible=False)
    images = np.concatenate([*points.values()])
    frame_around(whole, images, before, after)
    frame_around(near, np.concatenate([images, before]))
    whole.set_ylabel(labels[1])
    legend_below(figure, ncols=3, markerscale=2)
    figure.suptitle(title)
    return figure


def plot_edits(
    axis: Axes,
    points: Mapping[str, np.ndarray],
    before: np.ndarray,
    after: np.ndarray,
    names: Sequence[str],
    looks: Mapping[str, Look],
) -> None:
    """Points of `draw_plane` with arrows; groups without a look of their own share that of the others."""
    others = sum(looks.get(name, OTHER_GROUPS) == OTHER_GROUPS for name in points)
    for name, place in points.items():
        look = looks.get(name, OTHER_GROUPS)
        label = f"validation: {f'{others} other groups' if look == OTHER_GROUPS else name}"
        style = {"color": look.color, "markersize": 2.3, "alpha": 0.45, "markeredgewidth": 0}
        axis.plot(*place.T, look.marker, label=label, **style)
    # quiver, whose arrows end where the axes do
    colors = [looks.get(name, OTHER_GROUPS).color for name in names]
    in_data = {"angles": "xy", "scale_units": "xy", "scale": 1}
    axis.quiver(*before.T, *(after - before).T, color=colors, width=0.004, headwidth=5, **in_data)
    circle = {"markersize": 2.7, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.5}
    axis.plot(*before.T, "o", label="support, before its edits", **circle)


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """The look of each group; where there are more groups than looks, the last ones share that of the others."""
    own = GROUP_LOOKS if len(names) <= GROUP_LOOKS else GROUP_LOOKS - 1
    return {name: of_group(number) if number < own else OTHER_GROUPS for number, name in enumerate(names)}

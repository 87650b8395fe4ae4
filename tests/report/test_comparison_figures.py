import numpy as np
import pandas as pd
import pytest

from hsfm.report import figures, style, tables
from tests.report.test_tables import scores


@pytest.fixture
def summary() -> pd.DataFrame:
    return tables.summarize(
        pd.concat(
            [
                scores("erm", "none", [0], test=[(10, 10, 15, 40)]),
                scores("ddb_cut_paste", "selection", [0], test=[(9, 19, 27, 38)]),
                scores("hsfm", "selection", [0, 1], test=[(8, 18, 27, 38), (9, 18, 27, 36)]),
            ]
        )
    )


def markers(axis) -> dict[str, tuple[float, float]]:
    """Where each method's marker with a black edge lies within the axes."""
    found = {}
    for line in axis.lines:
        if line.get_markeredgecolor() == "black":
            (method,) = [m for m, look in style.method_looks().items()
                         if (look.marker, look.color) == (line.get_marker(), line.get_color())]  # fmt: skip
            found[method] = (line.get_xdata()[0], line.get_ydata()[0])
    return found


def labels(axis) -> list[str]:
    return [text.get_text() for legend in axis.figure.legends for text in legend.get_texts()]


def test_points_lie_at_average_and_worst_group(summary):
    (axis,) = figures.draw_tradeoff(summary, tables.aggregate(summary), "toy").axes
    assert markers(axis) == {
        "erm": pytest.approx((75, 50)), "ddb_cut_paste": pytest.approx((93, 90)), "hsfm": pytest.approx((90.5, 85)),
    }  # fmt: skip
    assert labels(axis) == ["DDB, cut and paste  90.0", "HSFM  85.0", "ERM  50.0"]
    single = [line for line in axis.lines if line.get_marker() == "."]
    assert [sorted(line.get_ydata()) for line in single] == [pytest.approx([80, 90])]
    across, up = (line.get_segments()[0] for line in axis.containers[1].lines[2])  # of the second lowest
    assert across[:, 0] == pytest.approx([90.5 - np.std([91, 90], ddof=1), 90.5 + np.std([91, 90], ddof=1)])
    assert up[:, 1] == pytest.approx([85 - np.std([80, 90], ddof=1), 85 + np.std([80, 90], ddof=1)])
    assert axis.get_ylabel() == "test worst group (%)"


def test_without_groups_the_worst_class_counts(summary):
    blind = summary.assign(worst_group=np.nan)
    (axis,) = figures.draw_tradeoff(blind, tables.aggregate(blind), "toy").axes
    assert axis.get_ylabel() == "test worst class (%)"

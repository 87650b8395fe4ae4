import numpy as np
import pandas as pd
import pytest

from hsfm.report import edit_figures
from hsfm.report import edit_tables as edit_report


@pytest.fixture
def rows() -> pd.DataFrame:
    """Two classes; the last row was not edited."""
    return pd.DataFrame(
        {
            "dataset": "toy", "run": [0, 0, 1, 1], "class_name": ["a", "b", "a", "b"],
            "length": [1.0, 2.0, 3.0, 0.0], "relative_length": [0.1, 0.2, 0.3, 0.0],
            "cos_spurious": [0.8, -0.6, 0.4, 0.0], "cos_away": [0.8, 0.6, -0.4, 0.0],
            "cos_class": [0.1, -0.1, 0.4, 0.0], "random_spread": 0.1, "pairs_spread": 0.2,
            "attribute_flips": pd.array([True, False, None, False], "boolean"),
            "class_flips": [False, False, True, False], "probe_before": 0.9, "probe_after": 0.3,
            "probe_accuracy": [0.9, 0.9, None, None], "directions_cosine": [0.2, 0.2, 0.4, 0.4],
            "own_before": [1.0, 1.0, 0.7, 1.0], "own_after": [0.0, 1.0, 0.2, 1.0],
        }
    )  # fmt: skip


def test_summary_by_hand(rows):
    found = edit_report.summarize(rows).set_index("class_name")
    assert found.index.tolist() == ["", "a", "b"]
    whole = found.loc[""]
    assert (whole["runs"], whole["rows"], whole["edited"]) == (2, 4, 3)
    assert whole["cos_spurious_size"] == pytest.approx(0.6)
    assert whole["cos_away"] == pytest.approx(1 / 3)
    assert whole["away"] == pytest.approx(2 / 3)
    assert whole["attribute_flips"] == pytest.approx(0.5), "one is unknown"
    assert whole["random_size"] == pytest.approx(0.1 * (2 / np.pi) ** 0.5)
    assert whole[edit_report.OF_RUNS].tolist() == pytest.approx([0.9, 0.3]), "over the runs that know it"
    assert found.loc["b", "edited"] == 1
    assert found.loc["b", "cos_away"] == 0.6


def test_the_table_says_what_is_unknown_by_a_dash(rows):
    unknown = rows.assign(dataset="plain", cos_spurious=np.nan, cos_away=np.nan, probe_before=np.nan)
    summary = edit_report.summarize(pd.concat([rows, unknown]))
    lines = edit_report.edits_table(summary).markdown().splitlines()
    assert lines[0] == "| HSFM's edits | toy | toy: a | toy: b | plain | plain: a | plain: b |"
    (row,) = [line for line in lines if line.startswith(r"| \|cosine\| with the spurious")]
    assert row.endswith("| 0.60 | 0.60 | 0.60 | - | - | - |")
    (row,) = [line for line in lines if line.startswith("| edits away from it")]
    assert row == "| edits away from it (%) | 67 | 50 | 100 | - | - | - |"


def test_the_plane_shows_points_and_arrows():
    points = {"a, x": np.zeros((3, 2)), "b, y": np.ones((4, 2))}
    before, after = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[50.0, 0.0], [1.0, 80.0]])
    figure = edit_figures.draw_plane(points, before, after, ["a, x", "b, y"], ("across", "up"), "toy")
    whole, near = figure.axes
    assert whole.get_xlim()[1] > 50
    assert whole.get_ylim()[1] > 80
    assert near.get_xlim()[1] < 2
    for axis in (whole, near):
        (arrows,) = axis.collections
        np.testing.assert_array_equal(arrows.U, [50, 0])
        np.testing.assert_array_equal(arrows.V, [0, 79])
        assert axis.get_xlabel() == "across"

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from PIL import Image
from scipy.stats import binomtest

from hsfm.report import figures, style
from tests.report.test_tables import scores


@pytest.fixture
def hsfm() -> pd.DataFrame:
    frame = pd.DataFrame([(0, s, e) for s in (0, 1) for e in range(1, 6)], columns=["run", "seed", "epoch"])
    return frame.assign(val_worst_group=0.5 + 0.05 * frame["epoch"], kept=frame["epoch"] == 4)


@pytest.fixture
def erm() -> pd.DataFrame:
    return pd.DataFrame(
        {"run": 0, "epoch": [1, 2], "train_accuracy": [0.8, 0.9], "val_average": 0.7, "val_worst_group": [0.4, 0.3],
         "kept": [True, False]}
    )  # fmt: skip


@pytest.fixture
def held() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Contents of two seeds' hard sets of 10 images over two epochs, and the groups."""
    rows = [(seed, epoch, k) for seed in (0, 1) for epoch in (1, 2) for k in (0, 1)]
    counts = pd.DataFrame(
        [(0, s, e, ("a, x", "a, y")[k], (6 - s * e, 4 + s * e)[k]) for s, e, k in rows],
        columns=["run", "seed", "epoch", "group_name", "n"],
    )
    groups = pd.DataFrame({"group_name": ["a, x", "a, y"], "n": [30, 10], "minority": [False, True]})
    return counts, groups


def curves(axis) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axis.lines}


def test_saved_figures_are_pictures_and_the_same_bytes_again(tmp_path, erm, hsfm):
    for name in ("first", "second"):
        for suffix in ("png", "pdf"):
            figures.save(figures.draw_training(erm, {"hsfm": hsfm}, {0: 0.35}, "toy"), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert (tmp_path / "first.pdf").read_bytes() == (tmp_path / "second.pdf").read_bytes()
    assert (tmp_path / "first.pdf").read_bytes().startswith(b"%PDF")
    pixels = np.asarray(Image.open(tmp_path / "first.png").convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 5


def test_training_curves_show_every_training(erm, hsfm):
    figure = figures.draw_training(erm, {"dac": hsfm, "hsfm": hsfm}, {0: 0.35}, "toy")
    left, _, right = figure.axes
    assert curves(left)["validation worst group"] == [40, 30]
    assert curves(left)["training average"] == [80, 90]
    assert curves(right)["ERM's head"] == [35, 35]
    assert [axis.get_title() for axis in figure.axes] == ["ERM", "DaC, a line per seed", "HSFM, a line per seed"]
    for axis, name, x, y in ((left, "ERM", [1], [40]), (right, "HSFM", [4, 4], pytest.approx([70, 70]))):
        (kept,) = [line for line in axis.lines if line.get_label() == f"{name}: kept epoch"]
        assert list(kept.get_xdata()) == x
        assert list(kept.get_ydata()) == y
        assert kept.get_marker() == style.of_method(name.lower()).marker
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training average", "validation average", "validation worst group", "ERM: kept epoch", "ERM's head",
        "DaC: kept epoch", "HSFM: kept epoch",
    ]  # fmt: skip
    assert len(figures.draw_training(erm, {}, {0: 0.35}, "toy").axes) == 1
    (only,) = figures.draw_training(None, {"hsfm": hsfm}, {0: 0.35}, "toy").axes
    assert curves(only)["ERM's head"] == [35, 35]
    assert only.get_ylabel() == "validation worst group (%)"


def test_a_training_without_groups_and_one_of_a_variant(hsfm):
    blind = hsfm.assign(val_worst_class=0.9, val_worst_group=np.nan)
    figure = figures.draw_training(None, {"mine": hsfm, "hsfm": blind, "yours": hsfm}, {0: 0.35}, "toy")
    left, right, last = figure.axes
    assert left.get_xlabel() == "epoch"
    assert curves(left)["mine: kept epoch"] == pytest.approx([70, 70])
    colors = [axis.lines[-1].get_color() for axis in (left, right, last)]
    assert colors == [style.PALETTE[0].color, style.of_method("hsfm").color, style.PALETTE[1].color]
    assert right.get_title() == "HSFM, worst class, a line per seed"
    assert curves(right)["HSFM: kept epoch"] == pytest.approx([90, 90])
    assert "ERM's head" not in curves(right)


def several_methods() -> pd.DataFrame:
    erm = scores("erm", "none", [0], test=[(10, 10, 15, 40)], times=1)
    return pd.concat([erm, scores("hsfm", "selection", [0, 1], test=[(8, 18, 27, 38), (8, 18, 27, 36)], times=1)])


def test_markers_are_mean_accuracies_with_intervals_from_erms_worst_group_on():
    figure = figures.draw_groups(several_methods(), "toy")
    (axis,) = figure.axes
    # ERM: 100, 50, 50 and 100
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "a\ny\nn = 20", "b\nx\nn = 30", "a\nx\nn = 10", "b\ny\nn = 40",
    ]  # fmt: skip
    marks = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    assert list(marks["ERM"].get_ydata()) == pytest.approx([50, 50, 100, 100])
    assert list(marks["HSFM"].get_ydata()) == pytest.approx([90, 90, 80, 92.5])
    for name, mark in marks.items():
        look = style.of_method(name.lower())
        assert (mark.get_marker(), mark.get_color()) == (look.marker, look.color)
    bar = axis.collections[0].get_segments()[0][:, 1]
    assert bar == pytest.approx([100 * end for end in binomtest(10, 20).proportion_ci(method="wilson")])
    heads = [line for line in axis.lines if line.get_marker() == "."]
    assert sorted(y for line in heads for y in line.get_ydata()) == pytest.approx([80, 80, 90, 90, 90, 90, 90, 95])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ERM", "HSFM"]


def test_of_many_groups_the_lowest_are_shown():
    few = several_methods()
    many = pd.concat([few.assign(group_name=f"class {k}, " + few["group_name"]) for k in range(5)])
    figure = figures.draw_groups(many, "toy")
    assert figure.get_suptitle() == "toy; the 8 lowest of 20 groups"
    assert len(figure.axes[0].get_xticks()) == 8


def test_the_hard_set_is_stacked_by_group_with_minorities_below(held):
    counts, groups = held
    figure = figures.draw_hard_set(counts, groups, "toy")
    axis, whole = figure.axes
    below, above = axis.containers
    assert [bar.get_height() for bar in below] == pytest.approx([45, 50])
    assert [bar.get_y() for bar in above] == pytest.approx([45, 50])
    assert [bar.get_y() + bar.get_height() for bar in above] == pytest.approx([100, 100])
    assert [patch.get_height() for patch in whole.patches] == pytest.approx([25, 75])
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["a\nx\n50 % at the end", "a\ny\n50 % at the end"], "as they lie, from above"
    assert below[0].get_facecolor() == to_rgba(style.of_group(1).color), "a group keeps its look wherever it lies"
    assert below[0].get_hatch() == style.of_group(1).hatch
    unknown = figures.draw_hard_set(counts, groups.assign(minority=None), "toy")
    assert [bar.get_height() for bar in unknown.axes[0].containers[0]] == pytest.approx([55, 50])


def test_many_groups_are_stacked_as_one():
    names = [f"class {k}, x" for k in range(12)]
    share = pd.DataFrame([range(12)], columns=names)
    stack = figures.stacking(share, pd.DataFrame({"group_name": names, "minority": False}))
    assert [name for _, name, _ in stack] == [*names[5:], "5 other groups"]
    assert stack[-1][0] == names[:5]
    assert len({(look.color, look.hatch) for _, _, look in stack}) == 8

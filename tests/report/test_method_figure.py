from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from hsfm.report import style
from hsfm.report.method_figure import MethodData, draw_method

SETTINGS = {"support_per_class": 3, "support_draw": "per_class", "hard_per_class": 4, "outer_set": "hard",
            "refresh": "epoch"}  # fmt: skip
SYMBOLS = {"T": 2, "alpha": 0.002, "eta": 0.5, "K_H": 7}


def method_data(groups: int = 4) -> MethodData:
    names = [f"class {k // 2}, {'left' if k % 2 else 'right'}" for k in range(groups)]
    image = np.full((6, 6, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    return MethodData(
        title="toy: HSFM",
        settings=SETTINGS,
        symbols=SYMBOLS,
        groups=pd.DataFrame({"group_name": names, "minority": [k % 3 > 0 for k in range(groups)]}),
        pictures={name: [image] * 3 for name in names[:4]},
        support_size=6,
        points={name: rng.normal(k, 1, (30, 2)) for k, name in enumerate(names)},
        before=np.zeros((6, 2)),
        after=np.ones((6, 2)),
        names=[names[k % groups] for k in range(6)],
        labels=("along the spurious direction", "along the class direction"),
        loops=[
            {"name": "1", "support_loss": [0.5, 0.4, 0.3], "change": [0.0, 0.1, 0.2], "outer_loss": 1.234},
            {"name": "2", "support_loss": [0.9, 0.8, 0.7], "change": [0.0, 0.2, 0.3], "outer_loss": 0.6},
        ],
        hardest=[(image, 5.0 - 0.5 * k, names[k % groups]) for k in range(8)],
        held=pd.DataFrame({"group_name": names, "first": [8] + [0] * (groups - 1), "kept": [2] * groups}),
        history=pd.DataFrame(
            {"epoch": [1, 2, 3], "outer_loss": [1.0, 0.6, 0.7], "val_worst_group": [0.5, 0.8, 0.7],
             "val_worst_class": 0.9, "kept": [False, True, False]}
        ),
    )  # fmt: skip


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def labeled(figure, label: str):
    (axis,) = [axis for axis in figure.axes if axis.get_ylabel() == label]
    return axis


def test_the_panels_say_what_the_run_was():
    figure = draw_method(method_data())
    said = texts(figure)
    for part in (
        "1  Support", "6 training images, 3 of each class", "2  Inner loop",
            "T = 2 trial steps of \N{GREEK SMALL LETTER ALPHA} = 0.002",
        "3  Hard set", "4 validation images of each class with the highest loss\nunder the current head",
        "each epoch anew", "the adapted head: outer loss\n1.23 in epoch 1, 0.60 after epoch 2",
        "4  Outer loss", "η = 0.5", "Kₕ = 7 times an epoch", "5.0", "1.5",
    ):  # fmt: skip
        assert part in said
    assert len([axis for axis in figure.axes if axis.images]) == 4 * 3 + 8
    loss, change = labeled(figure, "support loss"), labeled(figure, "head moved (%)")
    assert [list(line.get_ydata()) for line in loss.lines] == [[0.5, 0.4, 0.3], [0.9, 0.8, 0.7]]
    assert [list(line.get_ydata()) for line in change.lines] == [pytest.approx([0, 10, 20]), pytest.approx([0, 20, 30])]
    outer, worst = labeled(figure, "outer loss"), labeled(figure, "worst group (%)")
    assert list(outer.lines[0].get_ydata()) == [1.0, 0.6, 0.7]
    assert [axis.get_title(loc="right") for axis in (outer, worst)] == ["epoch 2: 0.6", "epoch 2: 80.0"]
    assert list(worst.lines[1].get_xdata()) == [2]


def test_the_bars_show_what_the_hard_sets_held():
    figure = draw_method(method_data())
    (bars,) = [axis for axis in figure.axes if len(axis.containers) == 8]
    widths = [container[0].get_width() for container in bars.containers]
    # minority groups first: the second and the third, then the first and the fourth
    assert widths == pytest.approx([0, 0, 1, 0, 0.25, 0.25, 0.25, 0.25])
    assert bars.containers[2][0].get_facecolor() == to_rgba(style.of_group(0).color)
    said = [text.get_text() for text in bars.texts]
    assert said == ["100 %", "epoch 1: 8 images", *["25 %"] * 4, "epoch 2, kept: 8 images"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "class 0, left", "class 1, right", "class 0, right", "class 1, left",
    ]  # fmt: skip


def test_a_random_outer_set_without_groups_and_edits():
    """Nothing is the hardest, the worst class counts, and there is no outer loss."""
    settings = {**SETTINGS, "outer_set": "random", "refresh": "never", "support_draw": "uniform"}
    data = method_data()
    history = data.history.assign(val_worst_group=np.nan, outer_loss=np.nan)
    figure = draw_method(replace(data, settings=settings, hardest=[], history=history))
    said = texts(figure)
    assert "3  Random set" in said
    assert "drawn at random, once, at the start" in said
    assert "the hardest" not in said
    assert "6 training images, drawn over all classes" in said
    assert len([axis for axis in figure.axes if axis.images]) == 4 * 3
    assert list(labeled(figure, "worst class (%)").lines[0].get_ydata()) == pytest.approx([90] * 3)
    assert not labeled(figure, "outer loss").get_title(loc="right")


@pytest.mark.parametrize("groups", [2, 24])
def test_nothing_leaves_the_page_or_overlaps(groups):
    figure = draw_method(method_data(groups))
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    assert all(box.x0 >= 0 and box.y0 >= -1 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes)
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not pairs
    named = [axis for axis in figure.axes if axis.get_title(loc="right")]
    assert len(named) == 2
    for axis in named:  # the epoch's label stands above the curves
        assert axis._right_title.get_window_extent().y0 >= axis.get_window_extent().y1
    assert len(figure.legends[0].get_texts()) == min(groups, style.GROUP_LOOKS)

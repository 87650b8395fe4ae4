import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_tables import scores

from hsfm import figures


@pytest.fixture
def hsfm() -> pd.DataFrame:
    frame = pd.DataFrame([(0, s, e) for s in (0, 1) for e in range(1, 6)], columns=["run", "seed", "epoch"])
    return frame.assign(
        val_worst_group=0.5 + 0.05 * frame["epoch"],
        minority_share=1 - 0.1 * frame["epoch"],
        pool_minority_share=0.5,
        kept=frame["epoch"] == 4,
    )


@pytest.fixture
def erm() -> pd.DataFrame:
    return pd.DataFrame(
        {"run": 0, "epoch": [1, 2], "train_accuracy": [0.8, 0.9], "val_average": 0.7, "val_worst_group": 0.4}
    )


def curves(axis) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axis.lines}


def test_saved_figures_are_pictures_and_the_same_bytes_again(tmp_path, hsfm):
    for name in ("first", "second"):
        for suffix in ("png", "pdf"):
            figures.save(figures.draw_hard_set(hsfm, "toy"), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert (tmp_path / "first.pdf").read_bytes() == (tmp_path / "second.pdf").read_bytes()
    assert (tmp_path / "first.pdf").read_bytes().startswith(b"%PDF")
    pixels = np.asarray(Image.open(tmp_path / "first.png").convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 5


def test_training_curves_show_both_trainings(erm, hsfm):
    left, right = figures.draw_training(erm, hsfm, {0: 0.35}, "toy").axes
    assert curves(left)["validation worst group"] == [40, 40]
    assert curves(left)["training average"] == [80, 90]
    assert curves(right)["ERM head"] == [35, 35]
    assert curves(right)["kept epoch"] == [pytest.approx(70)]
    assert len(figures.draw_training(erm, None, {0: 0.35}, "toy").axes) == 1
    (only,) = figures.draw_training(None, hsfm, {0: 0.35}, "toy").axes
    assert curves(only)["ERM head"] == [35, 35]


def test_bars_are_mean_accuracies():
    frame = pd.concat(
        [
            scores("erm", "none", [0], test=[(10, 10, 15, 40)]),
            scores("hsfm", "selection", [0, 1], test=[(8, 18, 27, 38), (8, 18, 27, 36)]),
        ]
    )
    (axis,) = figures.draw_groups(frame, "toy").axes
    heights = [bar.get_height() for bar in axis.patches]
    assert heights == pytest.approx([100, 50, 50, 100, 80, 90, 90, 92.5])
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["ERM", "HSFM"]
    assert axis.get_xticklabels()[0].get_text() == "a\nx\nn = 10"


def test_the_hard_set_stands_against_the_pool(hsfm):
    (axis,) = figures.draw_hard_set(hsfm, "toy").axes
    assert curves(axis)["one line per seed"] == pytest.approx([90, 80, 70, 60, 50])
    assert curves(axis)["share in the whole pool"] == [50, 50]


def test_examples_show_every_picture():
    images = {"a, x": [np.zeros((8, 8, 3), np.uint8)] * 2, "b, y": [np.full((9, 7, 3), 255, np.uint8)]}
    figure = figures.draw_examples(images, "toy")
    assert sum(len(axis.images) for axis in figure.axes) == 3


def test_masks_are_shown_with_what_they_came_from():
    image = np.full((8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    row = {"name": "a, x", "image": image, "heat": np.linspace(0, 1, 64).reshape(8, 8), "mask": mask,
           "loss": [0.1, 0.2, 0.9], "cut": 0.5, "knee": True, "composed": [image, image]}  # fmt: skip
    known = {**row, "loss": None, "cut": None, "knee": None}
    figure = figures.draw_masks([row, {**row, "knee": False, "cut": 0.8}, known], [0.3, 0.5, 0.8], "toy")
    assert len(figure.axes) == 18
    first, second, third = (figure.axes[number : number + 6] for number in (0, 6, 12))
    kept = first[2].images[0].get_array()
    assert (kept[:4] == 100).all()
    assert (kept[4:] == 200).all()
    curve, chosen = first[3].lines
    assert list(curve.get_ydata()) == [0.1, 0.2, 0.9]
    assert (chosen.get_xdata()[0], chosen.get_fillstyle()) == (0.5, "full")
    assert (second[3].lines[1].get_xdata()[0], second[3].lines[1].get_fillstyle()) == (0.8, "none")
    assert not third[3].lines
    assert third[3].texts[0].get_text() == "a mask that\nthe dataset knows"
    assert [len(axis.images) for axis in first] == [1, 2, 1, 0, 1, 1]


def test_a_contact_sheet_shows_what_was_made_of_each_source_and_its_fate():
    image, mask = np.full((8, 8, 3), 100, np.uint8), np.eye(8, dtype=bool)
    kept = {"name": "a to b", "source": image, "mask": mask, "generated": image, "kept": True, "caption": "kept"}
    nothing = {**kept, "mask": None, "generated": None, "kept": False, "caption": "no object"}
    figure = figures.draw_generated([kept, {**kept, "kept": False, "caption": "dropped"}, nothing], "toy")
    left, right = (figure.axes[4 * number : 4 * number + 4] for number in (0, 1))
    assert [axis.get_title() for axis in left] == ["source", "mask", "generated", ""]
    below = figure.axes[8:12]  # down the first column, then the second
    assert [len(axis.images) for axis in left] == [len(axis.images) for axis in below] == [1, 1, 1, 0]
    assert [len(axis.images) for axis in right] == [1, 0, 0, 0]
    assert [part[3].texts[0].get_text() for part in (left, below, right)] == ["kept", "dropped", "no object"]
    frames = [part[2].spines["left"].get_edgecolor() for part in (left, below)]
    assert frames[0] != frames[1]


def test_colours_are_one_per_method():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)

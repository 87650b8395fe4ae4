"""Figures of images: what is shown of each, and how it is framed."""

import numpy as np

from hsfm.report import pictures


def test_examples_show_every_picture():
    images = {"a, x": [np.zeros((8, 8, 3), np.uint8)] * 2, "b, y": [np.full((9, 7, 3), 255, np.uint8)]}
    figure = pictures.draw_examples(images, "toy")
    assert sum(len(axis.images) for axis in figure.axes) == 3


def test_a_figure_of_hundreds_of_rows_shows_some_and_says_so():
    images = {f"class {i}, x": [np.zeros((8, 8, 3), np.uint8)] * 2 for i in range(210)}
    figure = pictures.draw_examples(images, "toy")
    assert figure.get_suptitle() == "toy (24 of 210)"
    shown = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert (len(shown), shown[0], shown[-1]) == (24, "class 0,\nx", "class 209,\nx")
    assert (figure.get_size_inches() * 160 < 2**14).all()
    picture = np.zeros((8, 8, 3), np.uint8)
    edit = {"name": "a", "original": picture, "before": (picture, "b"), "after": (picture, "b"), "moved": False}
    assert pictures.draw_decoded([edit] * 49, "toy").get_suptitle() == "toy (48 of 49)"
    assert pictures.draw_decoded([edit] * 48, "toy").get_suptitle() == "toy"


def test_masks_are_shown_with_what_they_came_from():
    image = np.full((8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    row = {"name": "a, x", "image": image, "heat": np.linspace(0, 1, 64).reshape(8, 8), "mask": mask,
           "loss": [0.1, 0.2, 0.9], "cut": 0.5, "knee": True, "composed": [image, image]}  # fmt: skip
    known = {**row, "loss": None, "cut": None, "knee": None}
    figure = pictures.draw_masks([row, {**row, "knee": False, "cut": 0.8}, known], [0.3, 0.5, 0.8], "toy")
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
    figure = pictures.draw_generated([kept, {**kept, "kept": False, "caption": "dropped"}, nothing], "toy")
    left, right = (figure.axes[4 * number : 4 * number + 4] for number in (0, 1))
    assert [axis.get_title() for axis in left] == ["source", "mask", "generated", ""]
    below = figure.axes[8:12]  # down the first column, then the second
    assert [len(axis.images) for axis in left] == [len(axis.images) for axis in below] == [1, 1, 1, 0]
    assert [len(axis.images) for axis in right] == [1, 0, 0, 0]
    assert [part[3].texts[0].get_text() for part in (left, below, right)] == ["kept", "dropped", "no object"]
    for look in ("get_edgecolor", "get_linestyle"):
        frames = [getattr(part[2].spines["left"], look)() for part in (left, below)]
        assert frames[0] != frames[1]


def test_neighbors_of_another_attribute_stand_out():
    image = np.zeros((4, 4, 3), np.uint8)
    row = {"name": "a", "caption": "edit 2", "image": image, "before": [(image, "a, x", False)] * 3,
           "after": [(image, "a, x", False), (image, "a, y", True), (image, "b, y", True)]}  # fmt: skip
    figure = pictures.draw_neighbors([row, row], "toy")
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 2 * 7
    assert [axis.xaxis.label.get_color() for axis in shown[4:7]] == ["black", "#D55E00", "#D55E00"]

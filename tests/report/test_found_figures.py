"""Figures of inferred groups: the mixture is a density, and images stand by their group."""

import numpy as np
import pandas as pd
import pytest

from hsfm.report.found_figures import draw_found_groups, found_pictures, said

MIXTURE = {"class_names": ["a", "b"], "attribute_names": ["x", "z"], "centers": [[0, 1], [1, 0]], "spread": [0.2, 0.1],
           "prior": [[0.9, 0.1], [0.25, 0.75]], "branch": "DFR", "p_gate": 0.01, "p_guard": 0.02}  # fmt: skip


@pytest.fixture
def found():
    """100 images of each class, the last ten of which look like the other one; the very last is on the wrong side."""
    y, value = np.repeat([0, 1], 100), np.tile(np.repeat([0, 1], [90, 10]), 2)
    attribute = np.where(value == 1, 1 - y, y)
    attribute[-1] = 1
    rows = {"y": y, "score": value.astype(float), "found": np.where(value == 1, 1 - y, y), "attribute": attribute}
    rows |= {"image_id": [f"{n}" for n in range(200)], "posterior": 1 - value - np.where(value == 1, -1, 1) * y / 1e3}
    return pd.DataFrame(rows).assign(minority=attribute != y)


def test_histograms_hold_every_image_and_the_mixture_as_many(found):
    figure = draw_found_groups(found, MIXTURE, "toy")
    for axis, spread in zip(figure.axes, MIXTURE["spread"], strict=True):
        filled = [sum(bar.get_height() for bar in bars) for bars in axis.containers]
        assert filled == [90, 10]
        place, height = axis.lines[0].get_data()
        width = (place[-1] - place[0]) / 40
        assert np.trapezoid(height, place) / width == pytest.approx(100, rel=0.001)
        assert place[np.argmax(height)] == pytest.approx(0, abs=spread)
        assert axis.get_ylim()[1] > height.max()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-3:] == ["true: x", "true: z", "mixture of train's clouds"]


def test_unknown_attributes_leave_the_lines_out(found):
    figure = draw_found_groups(found.drop(columns=["attribute", "minority"]), MIXTURE, "toy")
    assert len(figure.legends[0].get_texts()) == 3


def test_images_of_a_group_go_from_the_surest_to_the_least_sure_and_wrong_ones_stand_out(found):
    picture = np.zeros((4, 4, 3), np.uint8)
    asked = []

    def pictures(ids):
        asked.extend(ids)
        return [picture] * len(ids)

    found.loc[150, "posterior"] = 0.6  # of class b, on its own side, the least sure
    groups = found_pictures(found, MIXTURE, pictures)
    assert list(groups) == ["a, as most of its class, 90 images", "a, like b, 10 images",
                            "b, like a, 10 images", "b, as most of its class, 90 images"]  # fmt: skip
    assert asked[-1] == "150"
    assert [text for _, text, _ in groups["a, like b, 10 images"]] == ["z"] * 8
    assert [wrong for _, _, wrong in groups["b, like a, 10 images"]] == [False] * 7 + [True]
    assert "AUROC" not in said(MIXTURE)

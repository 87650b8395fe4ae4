import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from hsfm.heads.known_methods import found
from hsfm.report import figures, style

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
SEES = {
    "all": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def lab(color: str, who: str) -> np.ndarray:
    """CIE L*a*b* of a color as some eyes see it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(SEES[who] @ linear, 0, 1) / WHITE
    x, y, z = (np.cbrt(v) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colors: dict[str, str], who: str) -> float:
    return min(np.linalg.norm(lab(a, who) - lab(b, who)) for a, b in itertools.combinations(colors.values(), 2))


def test_simulated_eyes_confuse_what_they_should():
    red_and_green = {"a": "#B00000", "b": "#5A5000"}
    assert closest(red_and_green, "no red") < closest(red_and_green, "all") / 2


def all_looks() -> list[style.Look]:
    """Of all rows that have one of their own, and of the others."""
    return [*style.method_looks().values(), *style.PALETTE]


@pytest.mark.parametrize("who", SEES)
def test_rows_are_told_apart_by_all_eyes(who):
    """A difference of 2.3 is just visible; 15 is plain."""
    assert closest({look.marker: look.color for look in all_looks()}, who) > 15
    assert len({look.marker for look in all_looks()}) == len(all_looks()), "without colors, too"


def test_the_published_methods_keep_their_looks():
    looks = style.method_looks()
    colored = {name: method for name, method in found().items() if method.color}
    assert {"erm", "dfr", "hsfm", *colored} <= set(looks)
    for name, method in colored.items():
        assert (looks[name].color, looks[name].marker) == (method.color, method.marker)
        for rows in ([], [name], ["mine", "yours", name]):
            with style.styled(rows):
                assert style.of_method(name) == looks[name], "in every figure"


def test_rows_without_a_look_of_their_own_get_different_ones_within_a_figure():
    rows = ["erm", "mine", "dfr", "yours", "mine", "hsfm"]
    with style.styled(rows):
        looks = {name: style.of_method(name) for name in rows}
        assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 5
        assert [looks["mine"], looks["yours"]] == list(style.PALETTE[:2])
        with style.styled():
            assert style.of_method("yours") == style.PALETTE[0], "no row of this one"
        assert style.of_method("yours") == looks["yours"], "the figure around it goes on"
    many = [str(number) for number in range(3 * len(style.PALETTE))]
    with style.styled(["erm", *many]):
        assert len({(style.of_method(name).color, style.of_method(name).marker) for name in many}) == len(many)


def test_all_methods_fit_into_one_figure():
    """Each with a color and a marker that no other row has."""
    rows = ["erm", *found()]
    with style.styled(rows):
        looks = [style.of_method(name) for name in rows]
    assert len({look.color for look in looks}) == len({look.marker for look in looks}) == len(rows)


@pytest.mark.parametrize("who", SEES)
def test_groups_are_told_apart_by_all_eyes_and_without_colors(who):
    looks = [style.of_group(number) for number in range(style.GROUP_LOOKS)]
    assert closest({look.marker: look.color for look in looks}, who) > 8
    assert len({look.marker for look in looks}) == len({look.hatch for look in looks}) == len(looks)
    assert style.of_group(style.GROUP_LOOKS) == looks[0]
    assert not {look.color for look in looks} & {look.color for look in all_looks()}


def test_the_file_sets_the_style_and_the_users_own_settings_do_not(tmp_path):
    def picture(name: str) -> bytes:
        with style.styled():
            figure = Figure(figsize=(2, 2))
            figure.subplots().plot([0, 1], [1, 0])
        figures.save(figure, tmp_path / name)
        return (tmp_path / name).read_bytes()

    plain = picture("plain.png")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.prop_cycle": mpl.cycler(color=["red"])}):
        assert picture("users.png") == plain
        with style.styled():
            assert mpl.rcParams["axes.spines.top"] is False
        assert mpl.rcParams["font.size"] == 20
    assert mpl.rcParams["axes.spines.top"] is True

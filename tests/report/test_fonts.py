"""Names of classes in any characters, as figures draw them."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from hsfm.report import fonts
from hsfm.report.figures import save
from hsfm.report.pictures import draw_examples

PICTURES = [np.zeros((8, 8, 3), np.uint8)] * 2


def drawn(path, *names: str):
    figure = draw_examples(dict.fromkeys(names, PICTURES), f"mine: {names[0]}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, path)
    return {text.get_text(): text for text in figure.findobj(Text)}


@pytest.fixture
def made_font(tmp_path):
    """A font of the two characters 狗猫 as full boxes, which matplotlib knows during a test."""
    pen = TTGlyphPen(None)
    for point, draw in (((0, 0), pen.moveTo), ((0, 900), pen.lineTo), ((900, 900), pen.lineTo), ((900, 0), pen.lineTo)):
        draw(point)
    pen.closePath()
    names = [".notdef", "dog", "cat"]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord("狗"): "dog", ord("猫"): "cat"})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Made Sans", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "made.ttf")
    before = list(fontManager.ttflist)
    fontManager.addfont(tmp_path / "made.ttf")
    fonts.fallback.cache_clear()
    yield "Made Sans"
    fontManager.ttflist[:] = before
    fonts.fallback.cache_clear()


@pytest.mark.parametrize("name", ["$", "$5 bill, $x$", r"\frac{$1$}", "a_{b}^c"])
def test_dollars_and_backslashes_are_drawn_as_they_are(tmp_path, name):
    texts = drawn(tmp_path / "a.png", name)
    assert not texts[name.replace(", ", ",\n")].get_parse_math()


def test_a_font_that_has_the_characters_is_used_for_the_names_that_need_it(tmp_path, made_font):
    assert fonts.lacking(["狗, land", "猫狗", "αβ"]) == "狗猫"
    assert fonts.fallback("狗猫") == (made_font, "")
    assert fonts.fallback("狗猫\U0001f9a4")[1] == "\U0001f9a4"
    texts = drawn(tmp_path / "a.png", "狗", "land")
    assert texts["狗"].get_fontfamily() == ["sans-serif", made_font]
    assert texts["land"].get_fontfamily() == ["sans-serif"]


def test_without_such_a_font_boxes_are_drawn_and_no_warning_is_given_for_each(tmp_path):
    lonely = "\U0001f9a4"
    assert fonts.fallback(lonely)[1] in ("", lonely)
    drawn(tmp_path / "a.png", f"dodo {lonely}")
    assert (tmp_path / "a.png").stat().st_size > 0

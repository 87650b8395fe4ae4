"""Fonts for names in any script: matplotlib's own has Latin, Greek and Cyrillic letters, and no Chinese ones."""

import functools
import logging
from collections.abc import Iterable
from contextlib import suppress

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)

NO_FONTS = ("Last Resort",)  # that draw every character as a box


@functools.cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())


def lacking(texts: Iterable[str]) -> str:
    """The characters that matplotlib's own font lacks, each once, sorted."""
    own = _characters(findfont(FontProperties(family=rcParams["font.sans-serif"][0])))
    return "".join(sorted({char for text in texts for char in text if char.isprintable() and ord(char) not in own}))


@functools.cache
def fallback(characters: str) -> tuple[str, str]:
    """The installed font that has most of some characters, and those that it lacks; "" where none has any.

    Of equal ones a plain sans-serif one, and then the first by name.
    """
    family, left = _best(characters)
    if left:  # matplotlib's list of fonts is of the day when it was first asked
        known = {font.fname for font in fontManager.ttflist}
        for file in set(findSystemFonts()) - known:
            with suppress(RuntimeError, OSError):  # no font that matplotlib reads
                fontManager.addfont(file)
        family, left = _best(characters)
    return family, left


def _best(characters: str) -> tuple[str, str]:
    wanted, best = {ord(char) for char in characters}, ((0, False, False), None)
    for font in sorted(fontManager.ttflist, key=lambda font: font.name):
        found = 0 if font.name.startswith(NO_FONTS) else len(wanted & _characters(font.fname))
        plain = font.style == "normal" and str(font.weight) in ("400", "normal", "regular")
        rank = (found, plain, "sans" in font.name.lower())
        if found and rank > best[0]:
            best = rank, font
    there = _characters(best[1].fname) if best[1] else frozenset()
    return best[1].name if best[1] else "", "".join(char for char in characters if ord(char) not in there)


def give_fonts(figure: Figure) -> None:
    """Let texts of a figure fall back to an installed font where matplotlib's own lacks their characters."""
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    needed = lacking(text.get_text() for text in texts)
    if not needed:
        return
    family, left = fallback(needed)
    if left:
        log.info("no installed font has %s: boxes are drawn", left)
    for text in texts if family else ():
        if lacking([text.get_text()]):
            text.set_fontfamily([*text.get_fontfamily(), family])

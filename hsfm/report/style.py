"""Style of all figures: the style file hsfm.mplstyle, colors, markers and hatches."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from matplotlib import style

from hsfm.heads.known_methods import found

FILE = Path(__file__).with_name("hsfm.mplstyle")


@dataclass(frozen=True)
class Look:
    color: str
    marker: str | tuple[int, int, int]  # of matplotlib; as three numbers a star: its points, 1, its angle
    hatch: str = ""


# Of rows that are no method of hsfm/methods. Methods have colors of Okabe and Ito's palette, which color-blind readers
# tell apart.
_ROWS = {"erm": Look("#595959", "s"), "ddb_cut_paste": Look("#661100", "X"), "hsfm_capped": Look("#8B3E00", "*")}
# Of methods that give no color, and of variants, by position.
PALETTE = (
    Look("#7777FF", (4, 1, 0)),
    Look("#88CC77", "d"),
    Look("#2200FF", (4, 1, 45)),
    Look("#EEAAAA", "8"),
    Look("#774477", (6, 1, 0)),
    Look("#003333", "h"),
    Look("#112244", (8, 1, 0)),
)
# Tol's muted palette; none of its colors is a method's.
_GROUPS = (
    Look("#332288", "o", ""),
    Look("#88CCEE", "s", "///"),
    Look("#CC6677", "^", "..."),
    Look("#DDCC77", "D", "\\\\\\"),
    Look("#117733", "v", "---"),
    Look("#44AA99", "P", "xxx"),
    Look("#AA4499", "X", "|||"),
    Look("#999933", "<", "+++"),
)
GROUP_LOOKS = len(_GROUPS)
OTHER_GROUPS = Look("#DDDDDD", ".")
MARKED = "#D55E00"  # what a caption calls orange


_rows: ContextVar[tuple[str, ...]] = ContextVar("rows", default=())  # of the figure that is being drawn


@contextmanager
def styled(rows: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the style of the file, whatever the settings of the user's matplotlib. rows: methods of the figure."""
    before = _rows.set(tuple(rows))
    try:
        with style.context(["default", FILE]):
            yield
    finally:
        _rows.reset(before)


@functools.cache
def method_looks() -> dict[str, Look]:
    """Color and marker of every row that has some of its own, the same in every figure."""
    own = {name: Look(method.color, method.marker or "o") for name, method in found().items() if method.color}
    return {**_ROWS, **own}


def of_method(method: str) -> Look:
    """Color and marker of a row; of one that has none of its own by its position among such rows of the figure."""
    known = method_looks()
    if method in known:
        return known[method]
    others = [name for name in dict.fromkeys(_rows.get()) if name not in known]
    place = others.index(method) if method in others else 0
    # where colors begin anew each has the marker of the next one, so that no two rows are alike
    color, marker = (PALETTE[n % len(PALETTE)] for n in (place, place + place // len(PALETTE)))
    return Look(color.color, marker.marker)


def of_group(number: int) -> Look:
    """Color, marker and hatch of a group, by its place among the groups of a dataset; the ninth is like the first."""
    return _GROUPS[number % len(_GROUPS)]

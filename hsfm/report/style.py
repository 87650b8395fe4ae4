"""Style of all figures: the style file hsfm.mplstyle, colors, markers and hatches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib import style

FILE = Path(__file__).with_name("hsfm.mplstyle")


@dataclass(frozen=True)
class Look:
    color: str
    marker: str
    hatch: str = ""


# Okabe and Ito's palette, told apart by color-blind readers; a method keeps its color and marker in every figure.
METHODS = {
    "erm": Look("#595959", "s"),
    "dfr": Look("#0072B2", "D"),
    "llr": Look("#56B4E9", "^"),
    "afr": Look("#E69F00", "<"),
    "dac": Look("#009E73", "v"),
    "ddb": Look("#CC79A7", "P"),
    "ddb_cut_paste": Look("#661100", "X"),
    "hsfm": Look("#D55E00", "o"),
    "hsfm_capped": Look("#8B3E00", "*"),
}
OTHER_METHOD = Look("#000000", ">")
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


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the file, whatever the settings of the user's matplotlib."""
    with style.context(["default", FILE]):
        yield


def of_method(method: str) -> Look:
    """Color and marker of a method; black for one that has none of its own."""
    return METHODS.get(method, OTHER_METHOD)


def of_group(number: int) -> Look:
    """Color, marker and hatch of a group, by its place among the groups of a dataset; the ninth is like the first."""
    return _GROUPS[number % len(_GROUPS)]

"""Progress bars and periodic log lines.

Whoever calls the library gets tqdm's bar where standard error is a terminal. A job of the workflow, which `core.job`
announces here, writes a line into its log now and then. Several jobs share one terminal: the one that holds the lock
file named by `HSFM_BAR`, which the Snakefile sets, has a bar there.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

BAR = "HSFM_BAR"  # the lock file
QUIET = "HSFM_QUIET"  # set where a user wants to see less
CLEAR = "\r\x1b[K"  # the line that holds the bar
EVERY = 60  # seconds between two lines in a log; shorter work has none

_role: Literal["library", "job", "silent"] = "library"  # of this process


def announce(*, silent: bool = False) -> None:
    global _role
    _role = "silent" if silent else "job"


def say(text: str, color: int | None = None) -> None:
    """Print lines on standard error, above the bar. color: the terminal's number of it."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        colored = color is not None and not os.environ.get("NO_COLOR")
        text = CLEAR + (f"\033[{color}m{text}\033[0m" if colored else text)
    # in one write, so that other processes do not come in between
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress within."""
    global _role
    before, _role = _role, "silent"
    try:
        yield
    finally:
        _role = before


class Progress(ExitStack):
    """So many units of work: `with Progress("embedding train", 4800, "image") as progress: progress.update(64)`.

    total: None where it is not known. unit: in the singular; `B` is shown as bytes. done: of an earlier run.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0) -> None:
        from tqdm import tqdm  # a job that shows no progress does not pay for it

        super().__init__()
        common = {"desc": what, "total": total, "unit": unit, "initial": done, "unit_scale": unit == "B"}
        self._bars = [self.enter_context(tqdm(**common, **kind)) for kind in self._kinds()]

    def _kinds(self) -> list[dict[str, Any]]:
        if _role == "silent":
            return []
        if _role == "library":
            return [{"disable": None}]  # but on a terminal
        lines = {"file": _Log(), "ncols": 0, "mininterval": EVERY, "delay": EVERY, "miniters": 1}
        if not os.environ.get(BAR) or not sys.stderr.isatty():
            return [lines]
        from filelock import FileLock, Timeout

        try:
            self.enter_context(FileLock(os.environ[BAR]).acquire(timeout=0))
        except Timeout:
            return [lines]
        return [lines, {"leave": False}]

    def update(self, n: int = 1) -> None:
        for bar in self._bars:
            bar.update(n)

    def now(self, what: str) -> None:
        """Set the description of the current work."""
        for bar in self._bars:
            bar.set_description(what, refresh=False)


class _Log:
    """The log as a file that tqdm writes to."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            log.info("%s", line)

    def flush(self) -> None:
        """Nothing waits."""


def track(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, each of which counts as done when the next is asked for. total: of what has no length."""
    with Progress(what, len(items) if total is None else total, unit) as progress:  # type: ignore[arg-type]
        for item in items:
            yield item
            progress.update()

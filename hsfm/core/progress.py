"""Progress bars and periodic log lines.

Whoever calls the library gets tqdm's bar where standard error is a terminal, and nothing elsewhere. Jobs of the
workflow, which `core.job` announces here, share one terminal: each draws in a row of its own below what is printed, and
whatever is printed clears these rows first, which come back at once. They do so only where `HSFM_BARS` names the folder
by whose locks they share the rows out; the Snakefile sets it, as it makes Snakemake's own lines clear the rows as well.
"""

import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from hsfm.core.text import duration

log = logging.getLogger(__name__)
T = TypeVar("T")

BARS = "HSFM_BARS"  # the folder of the rows' locks
QUIET = "HSFM_QUIET"  # set where a user wants to see less
ROWS = 4  # bars at the same time; further jobs have none until one is done
REDRAWN = 0.5  # seconds
CLEAR = "\r\x1b[J"  # from the beginning of this line to the end of the screen

# Lines in a log: none before FIRST seconds, then one in EVERY, later one in a tenth of the time that has passed.
FIRST, EVERY, SPARSER = 10, 30, 0.1

_place: str | None = None  # of the job that this process is, "" where it has none
_silent = False
_quiet = False
_shown: list["Progress"] = []  # those with a row, the outermost first
_now = time.monotonic


def announce(place: str | None, *, silent: bool = False) -> None:
    """This process is a job, at this place, such as `minibirds, run 0`; silent: one that leaves speaking to others."""
    global _place, _silent
    _place, _silent = place, silent


def say(text: str, *, green: bool = False) -> None:
    """Print lines on standard error, above the bars."""
    if _has_rows():
        colored = f"\033[32m{text}\033[0m" if green and not os.environ.get("NO_COLOR") else text
        _draw(f"{CLEAR}{colored}\n")
    else:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no progress within: of work that is a part of other work, which shows its own."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


class Progress:
    """So many units of work: `with Progress("embedding train", 4800, "image") as progress: progress.update(64)`.

    total: None where it is not known. unit: in the singular; `B` is shown as bytes. done: of an earlier run. shown:
    whether there is a bar, or lines, at all.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0, shown: bool = True) -> None:
        shown = shown and not _quiet
        self.what, self.total, self.unit, self.done, self._before = what, total, unit, done, done
        self._started = _now()
        self._next_line = self._started + FIRST if _place is not None and shown and not _silent else float("inf")
        self._said = False
        self._bar, self._row = None, None
        if _place is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, desc=what, unit=unit, unit_scale=unit == "B", disable=None if shown else True
            )
        elif shown and not _silent and _has_rows():
            _shown.append(self)
            if len(_shown) == 1:  # work within work has no row of its own
                self._row = _Row(self)

    def update(self, n: int = 1) -> None:
        """So much more is done."""
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif _now() >= self._next_line and self.done != self.total:
            self._write_line()

    def now(self, what: str) -> None:
        """Set the description of the current work."""
        self.what = what
        if self._bar is not None:
            self._bar.set_description(what, refresh=False)

    def close(self) -> None:
        """No more will be done; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()
        if self in _shown:
            _shown.remove(self)
        if self._row is not None:
            self._row.close()
            self._row = None
        if self._said and self.done == self.total:
            self._said = False
            seconds = _now() - self._started
            many = f"{_many(self.done - self._before, self.unit)} in {duration(seconds)}"
            log.info("%s: %s, %s", self.what, many, _rate((self.done - self._before) / seconds, self.unit))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        """One line, such as `embedding train: 12,800 of 162,770 images (8 %), 2,310 images/s, 1 min 5 s left`."""
        elapsed, new = _now() - self._started, self.done - self._before
        if self.total is None:
            line = f"{self.what}: {_many(self.done, self.unit)}"
        else:
            of = _many(self.total, self.unit)
            count = _amount(self.done) if self.unit == "B" else f"{self.done:,}"
            line = f"{self.what}: {count} of {of} ({int(100 * self.done / max(self.total, 1))} %)"
        if new and elapsed > 0:
            line += f", {_rate(new / elapsed, self.unit)}"
            if self.total is not None:
                line += f", {duration((self.total - self.done) * elapsed / new)} left"
        return line

    def _write_line(self) -> None:
        now = _now()
        self._next_line = now + max(EVERY, SPARSER * (now - self._started))
        self._said = True
        log.info("%s", str(self))  # now, not when somebody reads it

    def _text(self, columns: int) -> str:
        """The bar's text in so many columns."""
        line = str(self)
        text = f"{_place}: {line}" if _place and len(_place) + 2 + len(line) <= columns else line
        width = min(columns - len(text) - 3, 30)
        if self.total and width >= 8:
            full = min(width, width * self.done // self.total)
            text += f" [{'#' * full}{'.' * (width - full)}]"
        return text[:columns]


def track(items: Iterable[T], what: str, unit: str, total: int | None = None, *, shown: bool = True) -> Iterator[T]:
    """The items, each of which counts as done when the next is asked for. total: of what has no length."""
    with Progress(what, len(items) if total is None else total, unit, shown=shown) as progress:  # type: ignore[arg-type]
        for item in items:
            yield item
            progress.update()


# Words ----------------------------------------------------------------------------------------------------------------


def _many(n: int, unit: str) -> str:
    return _amount(n) if unit == "B" else f"{n:,} {unit}{'' if n == 1 else 's'}"


def _amount(n: float | int) -> str:
    for name in ("B", "kB", "MB", "GB"):
        if n < 1000 or name == "GB":
            return f"{n:,.0f} {name}" if n >= 100 or name == "B" else f"{n:.3g} {name}"
        n /= 1000
    raise AssertionError


def _rate(per_second: float, unit: str) -> str:
    if unit == "B":
        return f"{_amount(per_second)}/s"
    if per_second < 1:
        return f"{1 / per_second:.3g} s per {unit}" if per_second else f"0 {unit}s/s"
    return f"{per_second:,.0f} {unit}s/s" if per_second >= 100 else f"{per_second:.3g} {unit}s/s"


# Rows of a terminal ---------------------------------------------------------------------------------------------------


def _has_rows() -> bool:
    return bool(os.environ.get(BARS)) and sys.stderr is not None and sys.stderr.isatty()


def _draw(text: str) -> None:
    """In one write, so that other processes do not come in between."""
    with contextlib.suppress(OSError):  # nor is such a terminal a reason to stop
        os.write(sys.stderr.fileno(), text.encode(errors="replace"))


class _Row:
    """A row below what is printed, redrawn by a thread, since the work may take long from one step to the next."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._locks = progress, Path(os.environ[BARS])
        self._number: int | None = None
        self._lock: IO | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._redraw, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._leave()

    def _redraw(self) -> None:
        while not self._done.wait(REDRAWN):
            with contextlib.suppress(OSError):  # of a terminal that was closed
                self._move_up()
                if self._number is not None:
                    columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
                    self._put(self._progress._text(columns - 1))

    def _put(self, text: str) -> None:
        _draw("\n" * self._number + f"\r{text}\x1b[K" + (f"\x1b[{self._number}A" if self._number else "") + "\r")

    def _move_up(self) -> None:
        """Take the first free row, if it is above the own one."""
        for number in range(ROWS if self._number is None else self._number):
            handle = open(self._locks / str(number), "w")  # noqa: SIM115, it is held until the row is left
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another job has it
                handle.close()
                continue
            self._leave()
            self._number, self._lock = number, handle
            return

    def _leave(self) -> None:
        if self._number is not None:
            self._put("")
            self._lock.close()
            self._number, self._lock = None, None

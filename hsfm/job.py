"""What every stage does first: open its log and turn errors into one line."""

import logging
import sys
import traceback
from pathlib import Path
from types import TracebackType


class _Once(logging.Filter):
    """Lets each warning through once: what holds for a class is said by every fit of a study."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno < logging.WARNING or text not in self._said:
            self._said.add(text)
            return True
        return False


def start(log: str | Path) -> None:
    """Log progress to the file `log`, warnings to the terminal too, each once.

    An error about input (ValueError, FileNotFoundError) ends the process with its one line on the terminal; the
    traceback is in the log.
    """
    handler = logging.FileHandler(log, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for each in (handler, terminal):
        each.addFilter(_Once())
    logging.basicConfig(level=logging.WARNING, handlers=[handler, terminal], force=True)
    logging.getLogger("hsfm").setLevel(logging.INFO)
    logging.captureWarnings(True)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with open(log, "a") as file:
            traceback.print_exception(kind, error, trace, file=file)
        if issubclass(kind, ValueError | FileNotFoundError):
            print(f"ERROR: {error}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report

"""What every stage does first: open its log and turn errors into one line; and what a stage that resumes goes by."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from hsfm.files import sha256

DATE = "%Y-%m-%d %H:%M:%S"
log = logging.getLogger("hsfm.job")  # for what a script itself has to say


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


def start(log: str | Path, *, gpus: int = 0, device: str = "auto") -> None:
    """Log progress to the file `log`, warnings to the terminal too, each once; take GPUs that no other job has.

    An error about input (ValueError, FileNotFoundError), and one of the disk that names its file, ends the process with
    its one line on the terminal and in the log, which Snakemake shows; its traceback lies beside the log. gpus: how
    many the job was given. device: the setting; one that names its GPU (`cuda:1`) is left with that. To be called
    before anything asks CUDA for its devices.
    """
    _log_to(log, "w", [_terminal()])
    Path(log).with_suffix(".traceback").unlink(missing_ok=True)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, ValueError | FileNotFoundError):
            said = str(error)
        elif isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename}: {error.strerror}"
        else:
            said = None
        with suppress(OSError):  # the disk may be full
            _write_traceback(log, said, kind, error, trace)
        if said is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(f"ERROR: {said}", file=sys.stderr)

    sys.excepthook = report
    if gpus and ":" not in device:
        from hsfm.gpus import claim

        claim(gpus, f"process {os.getpid()} ({log})")


def join(log: str | Path, *, speaks: bool) -> None:
    """Go on in the log of the job that has started this process; what it raises is left to the job to say.

    speaks: for one of several processes that would all say the same; the others only say what went wrong.
    """
    if speaks:
        _log_to(log, "a", [_terminal()])
    else:
        _log_to(log, "a", [], logging.CRITICAL)
        # whatever libraries say, and progress bars, which ask whether this is a terminal
        with open(log, "a") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        expected = issubclass(kind, ValueError | FileNotFoundError)  # which the job will raise once more
        _write_traceback(log, str(error) if expected else None, kind, error, trace)

    sys.excepthook = report


def _write_traceback(
    log: str | Path, said: str | None, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Into the log; beside it, where one line there says all that a user needs."""
    file = Path(log) if said is None else Path(log).with_suffix(".traceback")
    with open(file, "a") as handle:
        traceback.print_exception(kind, error, trace, file=handle)
    if said is not None:
        with open(log, "a") as handle:
            handle.write(f"{time.strftime(DATE)} ERROR: {said} (traceback: {file})\n")


def _terminal() -> logging.Handler:
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    return terminal


def _log_to(log: str | Path, mode: str, others: Iterable[logging.Handler], level: int = logging.NOTSET) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)  # Snakemake has made it, but somebody may tidy up meanwhile
    handler = logging.FileHandler(log, mode=mode)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", DATE))
    handlers = [handler, *others]
    for each in handlers:
        each.addFilter(_Once())
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("hsfm").setLevel(logging.INFO)
    logging.captureWarnings(True)


def depends_on(settings: Mapping[str, Any], files: Iterable[str | Path], device: str) -> dict[str, Any]:
    """All that the work of a stage depends on, as a JSON-like value: what a killed one left serves only if it is equal.

    files: what it reads, and its code. device: where it computes.
    """
    import torch

    return {
        "settings": dict(settings),
        "files": [sha256(path) for path in files],
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }

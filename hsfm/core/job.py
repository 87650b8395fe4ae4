"""Job lifecycle: logging, errors, run record, and the key by which a stage that was killed resumes."""

import json
import logging
import os
import platform
import re
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hsfm import __version__
from hsfm.core import progress
from hsfm.core.files import fingerprint, sha256, write_atomically
from hsfm.core.text import duration

DATE = "%Y-%m-%d %H:%M:%S"
log = logging.getLogger("hsfm.core.job")  # for what a script itself has to say

CODE = ("hsfm", "workflow", "Snakefile")  # what makes a commit dirty; a changed configuration is recorded by itself

_began = time.monotonic()
_log = Path()  # of this process's job
_used: dict[str, Any] = {}  # for its record, where other processes computed


def start(log: str | Path, *, gpus: int = 0, device: str = "auto") -> None:
    """Log progress to the file `log`, warnings to the terminal too, each once; take GPUs that no other job has.

    An error about input (ValueError, FileNotFoundError), and one of the disk that names its file, is one line on the
    terminal and in the log; its traceback lies beside the log. gpus: how many the job was given. device: the setting;
    one that names its GPU (`cuda:1`) is left with that. To be called before anything asks CUDA for its devices.
    """
    global _log
    _log = Path(log)
    for file in (_log, _log.with_suffix(".traceback"), _log.with_suffix(".json")):  # of the last time
        file.unlink(missing_ok=True)
    _log_to(log)
    progress.announce()

    def report(kind: type[BaseException], error: BaseException, trace: object) -> None:
        said = _write_error(log, error)
        if said is None:
            sys.__excepthook__(kind, error, trace)
        else:
            progress.say(f"ERROR: {said}")

    sys.excepthook = report
    if gpus and ":" not in device:
        from hsfm.core.gpus import claim

        claim(gpus)


def join(log: str | Path, *, speaks: bool) -> None:
    """Go on in the log of the job that has started this process. speaks: whether it says more than errors."""
    progress.announce(silent=not speaks)
    _log_to(log, logging.NOTSET if speaks else logging.CRITICAL)
    sys.excepthook = lambda kind, error, trace: _write_error(log, error)


def _write_error(log: str | Path, error: BaseException) -> str | None:
    """Write an error into the log: as one line, which is returned, where that says all that a user needs."""
    if isinstance(error, ValueError | FileNotFoundError):
        said = str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        said = f"{error.filename}: {error.strerror}"
    else:
        said = None
    file = Path(log) if said is None else Path(log).with_suffix(".traceback")
    with open(file, "a") as handle:
        traceback.print_exception(error, file=handle)
    if said is not None:
        with open(log, "a") as handle:
            handle.write(f"{time.strftime(DATE)} ERROR: {said} (traceback: {file})\n")
    return said


class _Log(logging.FileHandler):
    """A job's log. A warning appears on the terminal too, and once: every fit of a study may give the same."""

    def __init__(self, file: str | Path, level: int) -> None:
        super().__init__(file)  # appends, beside other processes
        self.setLevel(level)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", DATE))
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname}: {record.getMessage()}"
            if text in self._said:
                return
            self._said.add(text)
            progress.say(text)
        super().emit(record)


def _log_to(log: str | Path, level: int = logging.NOTSET) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)  # Snakemake has made it, but somebody may tidy up meanwhile
    logging.basicConfig(level=logging.WARNING, handlers=[_Log(log, level)], force=True)
    logging.getLogger("hsfm").setLevel(logging.INFO)
    logging.captureWarnings(True)


def place(log: str | Path) -> str:
    """Where in the workflow a job is, by the name of its log: `minibirds, run 0, seed 2`; empty for the whole."""
    words = list(Path(log).parts[1:-1])
    words += re.findall(r"(?<=_)(?:seed\d+|\d+-of-\d+)(?=_|$)", Path(log).stem)
    readable = (re.sub(r"^(run|seed)(\d+)$", r"\1 \2", word) for word in words)
    return ", ".join(re.sub(r"^(\d+)-of-(\d+)$", r"shard \1 of \2", word) for word in readable)


# The end --------------------------------------------------------------------------------------------------------------


def finish(what: str, result: str) -> None:
    """Say in the log and on the terminal what came out, and write the job's record; the last that a stage does.

    what: `HSFM`, to which the job's place is added. result: its main number, `validation worst group 92.4 (epoch 38)`.
    The record, logs/.../NAME.json beside the log: summary; seconds since this module was loaded; memory_mb (2^20 bytes,
    peak resident set) and gpu_memory_mb (10^6 bytes, peak of torch's allocator), each of that process which took most;
    cpu_seconds of this process and those it has waited for; device, versions. What the job did not load is null.
    """
    where = place(_log).replace(",", "")
    summary = f"{what} {where}: {result}" if where else f"{what}: {result}"
    seconds = time.monotonic() - _began
    log.info("%s (%s)", summary, duration(seconds))
    times = {"seconds": round(seconds, 2), "cpu_seconds": round(sum(os.times()[:4]), 2)}
    record = {"summary": summary, **times, **resources(), **_used, "versions": versions()}
    with write_atomically(_log.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not os.environ.get(progress.QUIET):
        progress.say(f"{time.strftime('%H:%M:%S')}    {summary}", color=32)


def used(**resources: Any) -> None:
    """Add the devices of this job's other processes to its record: device, gpu_memory_mb."""
    _used.update(resources)


def resources() -> dict[str, Any]:
    """Resources of this process and those it has waited for: memory_mb, device, gpu_memory_mb."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    megabytes = max(peaks) / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, here 2^10 bytes
    torch = sys.modules.get("torch")
    device, memory = "cpu", None
    if torch is not None and torch.cuda.is_initialized():
        memory = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 1e6
        device = torch.cuda.get_device_name(torch.cuda.current_device())
    return {"memory_mb": round(megabytes, 2), "device": device, "gpu_memory_mb": memory}


def versions() -> dict[str, str | bool | None]:
    """Versions of hsfm, python, torch, torchvision, cuda, and the commit and state of the code."""
    torch = sys.modules.get("torch")
    commit, dirty = code_state(Path(__file__).parents[2])
    return {
        "hsfm": __version__,
        "python": platform.python_version(),
        "torch": getattr(torch, "__version__", None),
        "torchvision": getattr(sys.modules.get("torchvision"), "__version__", None),
        "cuda": None if torch is None else torch.version.cuda,
        "commit": commit,
        "dirty": dirty,
    }


def code_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of the code in a folder and whether a file of CODE differs from it; None where it is not tracked."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "hsfm/core/job.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
        return git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, None


# Going on after a kill ------------------------------------------------------------------------------------------------


@contextmanager
def resuming(output: str | Path, depends_on: Mapping[str, Any], name: str = "") -> Iterator[Path]:
    """A file beside `output` for the state of unfinished work, named after all that the work depends on.

    Without an error it is removed at the end, as are those of other settings. name: of the work in a shared folder.
    """
    path = Path(output).with_name(f".resume-{name}{fingerprint(depends_on)}.pt")
    yield path
    for leftover in path.parent.glob(f".resume-{name}*.pt"):
        leftover.unlink()


def depends_on(settings: Mapping[str, Any], files: Iterable[str | Path], device: str) -> dict[str, Any]:
    """All that a stage's work depends on: what a killed one left serves only if it is equal. files: what it reads."""
    import torch

    return {
        "settings": dict(settings),
        "files": [sha256(path) for path in files],
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
    }

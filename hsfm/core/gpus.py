"""Exclusive GPU assignment by lock files.

Snakemake counts GPUs but hands none out. A job therefore locks one file per GPU, in a folder that all jobs of a user on
a machine share, and shows CUDA these GPUs alone. The kernel frees a lock when its process ends, however it ends.
"""

import logging
import os
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[FileLock] = []  # until the process ends


def claim(n: int, who: str, *, seconds: float | int = 0.5) -> list[str]:
    """Take n of the machine's GPUs for this process and show CUDA no others; their names.

    Waits while too many are taken, looking again every so many seconds. Where CUDA_VISIBLE_DEVICES names more than n it
    takes n of those; where it names no more, somebody else has handed them out, and none is taken, as where the machine
    has none. CUDA reads that variable once, when the process first asks it for anything: not before this function has
    returned. who: what other jobs are told that wait.

    Raises ValueError where the machine has fewer than n.
    """
    given = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    if n < 1 or (VISIBLE in os.environ and len(given) <= n):
        return []
    known = given or list_gpus()
    if not known:
        return []
    if n > len(known):
        raise ValueError(
            f"gpu: a job asks for {n} GPUs, but this machine has {len(known)}; lower training_gpus or --resources gpu"
        )
    locks = _wait(n, known, who, _folder(), seconds)
    _held.extend(locks.values())
    os.environ[VISIBLE] = ",".join(locks)
    log.info("on %s", ", ".join(locks))
    return list(locks)


def list_gpus() -> list[str]:
    """UUIDs of the machine's GPUs, which unlike their numbers mean the same to everybody; none without nvidia-smi.

    Asked of another process: CUDA would read CUDA_VISIBLE_DEVICES here.
    """
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi gives no answer (%s): jobs on this machine may meet on one GPU", error)
        return []
    found = [line.strip() for line in asked.stdout.splitlines() if line.strip().startswith("GPU-")]
    if asked.returncode and "No devices were found" not in asked.stdout:
        said = " ".join((asked.stdout + asked.stderr).split())
        log.warning("nvidia-smi fails (%s): jobs on this machine may meet on one GPU", said)
        return []
    return found


def _folder() -> Path:
    """Where the locks lie: on the machine itself, and not in TMPDIR, which may differ from job to job."""
    folder = Path(f"/tmp/hsfm-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ValueError(f"{folder}: is another user's; remove it, or set {VISIBLE} to the GPU that jobs are to use")
    return folder


def _wait(n: int, known: Sequence[str], who: str, folder: Path, seconds: float | int) -> dict[str, FileLock]:
    """n locks by the name of the GPU.

    One job at a time stands at the head of the queue and gathers what gets free: two that want several GPUs each cannot
    wait for one another, and one that wants many is not overtaken for ever.
    """
    # not `with`, which would wait without a word
    queue = FileLock(folder / "queue.lock")
    try:
        queue.acquire(timeout=2)
    except Timeout:
        log.info("waiting for a GPU behind another job")
        queue.acquire(poll_interval=seconds)
    locks: dict[str, FileLock] = {}
    said = False
    try:
        while True:
            for uuid in known:
                if len(locks) < n and uuid not in locks:
                    lock = FileLock(folder / f"{_file(uuid)}.lock")
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        continue
                    locks[uuid] = lock
                    # beside the lock, since some versions of filelock empty the file when they ask for it
                    (folder / f"{_file(uuid)}.holder").write_text(who)
            if len(locks) == n:
                return {uuid: locks[uuid] for uuid in known if uuid in locks}
            if not said:
                taken = "; ".join(f"{uuid} by {_holder(folder, uuid)}" for uuid in known if uuid not in locks)
                log.info("waiting for %d of %d GPUs; taken are %s", n - len(locks), len(known), taken)
                said = True
            time.sleep(seconds)
    except BaseException:
        for lock in locks.values():
            lock.release()
        raise
    finally:
        queue.release()


def _file(name: str) -> str:
    """A GPU's name as that of a file; MIG devices may have a slash in theirs."""
    return name.replace("/", "_")


def _holder(folder: Path, uuid: str) -> str:
    try:
        return (folder / f"{_file(uuid)}.holder").read_text()
    except OSError:
        return "somebody"

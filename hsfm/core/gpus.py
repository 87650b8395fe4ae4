"""Exclusive GPU assignment by lock files.

Snakemake counts GPUs but hands none out. A job therefore locks one file per GPU, in a folder that all jobs of a user on
a machine share, and shows CUDA these GPUs alone. The kernel frees a lock when its process ends, however it ends.
"""

import ctypes
import logging
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the Snakefile, which asks `accelerator_present`, imports nothing slow
    from filelock import FileLock

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
# on the machine itself, and not in TMPDIR, which may differ from job to job
LOCKS = Path(f"/tmp/hsfm-gpus-{os.getuid()}")
_held: dict[str, "FileLock"] = {}  # by the GPU's name, until the process ends


def accelerator_present() -> bool:
    """Whether the CUDA driver finds a device, asked without importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def claim(n: int, *, seconds: float | int = 0.5) -> list[str]:
    """Take n of the machine's GPUs for this process and show CUDA no others; their names.

    Waits while too many are taken. Where CUDA_VISIBLE_DEVICES names more than n it takes n of those; where it names no
    more, somebody else has handed them out, and none is taken. CUDA reads that variable once: call this before anything
    asks it for devices. Raises ValueError where the machine has fewer than n.
    """
    from filelock import FileLock, Timeout

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
    log.info("asking for %d of %d GPUs; waits while other jobs have them", n, len(known))
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    # One job at a time gathers what gets free: two that want several GPUs each cannot wait for one another, and one
    # that wants many is not overtaken for ever.
    with FileLock(LOCKS / "queue.lock").acquire(poll_interval=seconds):
        while len(_held) < n:
            for name in known:
                lock = FileLock(LOCKS / f"{name.replace('/', '_')}.lock")  # MIG devices may have a slash
                with suppress(Timeout):
                    if len(_held) < n and name not in _held:
                        lock.acquire(timeout=0)
                        _held[name] = lock
            if len(_held) < n:
                time.sleep(seconds)
    names = [name for name in known if name in _held]
    os.environ[VISIBLE] = ",".join(names)
    log.info("on %s", ", ".join(names))
    return names


def list_gpus() -> list[str]:
    """UUIDs of the machine's GPUs by nvidia-smi: asked here, CUDA would read CUDA_VISIBLE_DEVICES."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return []
    return [line for line in said.split() if line.startswith("GPU-")]

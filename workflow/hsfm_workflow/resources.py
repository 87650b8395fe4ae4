"""Resources of jobs: memory by the size of their inputs, and GPUs."""

import sys
from collections.abc import Callable
from pathlib import Path

from snakemake.logging import logger

from hsfm.core.gpus import accelerator_present

# How many times the size of its file an input takes in memory, by its name in the rule; 4 for others. A row of an image
# table has 320 bytes, and 13 in the file (docs/how-to/large-datasets.md); arrays of pixels are mapped, not read.
IN_MEMORY = {"images": 30, "pixels": 0, "cache": 0, "predictions": 100}


def memory(base: int, times: int = 1, **factors: int) -> Callable:
    """Megabytes that a job asks for: `base`, and for its inputs by `factors` or IN_MEMORY; of so many processes.

    Doubled at the second attempt and so on, since a job that was killed for memory fails like any other. Inputs that
    are not there yet count nothing in a dry run; they are there when the job is handed out.
    """
    known = {**IN_MEMORY, **factors}

    def mem_mb(wildcards: object, input: object, attempt: int) -> int:
        named = [(name, [files] if isinstance(files, str) else files) for name, files in input.items()]
        there = [(known.get(name, 4), Path(file)) for name, files in named for file in files if Path(file).exists()]
        return int(attempt * times * (base + sum(factor * path.stat().st_size for factor, path in there) // 10**6))

    return mem_mb


def gpus(workflow: object, device: str, count: int = 1) -> Callable:
    """GPUs of a rule: `count`, or 0 where jobs run on this machine and it has none or is not to use it.

    A login node without a GPU asks for some, since its jobs run elsewhere.
    """

    def asked(wildcards: object) -> int:
        if device == "cpu":
            return 0
        return 0 if device == "auto" and workflow.local_exec and not accelerator_present() else count

    return asked


def check_device(workflow: object, device: str) -> None:
    """Stop with one line where a job to run here is for a CUDA device and this machine has none."""
    if not device.startswith("cuda") or not workflow.local_exec or accelerator_present():
        return
    asked = [job.rule.resources.get("gpu") for job in workflow.dag.needrun_jobs()]
    if any(gpu is not None and gpu.is_evaluable() for gpu in asked):  # of `gpus`; others ask for the number 0
        logger.error(f"ERROR: device: {device!r} was asked for, but this machine has no CUDA device")
        sys.exit(1)

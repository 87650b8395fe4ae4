"""Resources of jobs: memory by the size of their inputs, and GPUs."""

from collections.abc import Callable
from pathlib import Path

from snakemake.exceptions import WorkflowError

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

    A login node without a GPU asks for some, since its jobs run elsewhere. Raises WorkflowError where a CUDA device was
    asked for and jobs run on a machine without one.
    """

    def asked(wildcards: object) -> int:
        if device == "cpu":
            return 0
        if workflow.local_exec and not accelerator_present():
            if device != "auto":
                raise WorkflowError(f"device: {device!r} was asked for, but this machine has no CUDA device")
            return 0
        return count

    return asked

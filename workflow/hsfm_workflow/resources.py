"""Resources of jobs: memory by the size of their inputs, and GPUs."""

from collections.abc import Callable
from pathlib import Path

from snakemake.exceptions import WorkflowError

from hsfm.core.device import accelerator_present

# Of the size of its file an image table takes in memory: 320 bytes an image, and 13 in the file; measured in
# docs/how-to/large-datasets.md.
IN_MEMORY = 30


def memory(base: int, **times: float) -> Callable:
    """Megabytes that a job asks for: `base`, and for the inputs of each name so many times their size.

    Doubled at the second attempt and so on, since a job that was killed for memory fails like any other. Inputs that
    are not there yet count nothing in a dry run; they are there when the job is handed out.
    """

    def mem_mb(wildcards: object, input: object, attempt: int) -> int:
        files = [(file, factor) for name, factor in times.items() for file in _listed(input.get(name, []))]
        size = sum(factor * Path(file).stat().st_size for file, factor in files if Path(file).exists())
        return int(attempt * (base + size // 10**6))

    return mem_mb


def _listed(files: object) -> list[str]:
    """A named input as a list: Snakemake gives a single file as a string."""
    return [files] if isinstance(files, str) else list(files)


def gpus(workflow: object, device: str, count: int = 1) -> Callable:
    """GPUs of a rule: `count`, or 0 where jobs run on this machine and it has none or is not to use it.

    Without that exception such rules would run one at a time for nothing. A login node without a GPU still asks for
    some, since its jobs run elsewhere. Snakemake gives at most what --resources allows. Raises WorkflowError where a
    CUDA device was asked for and jobs run on a machine without one.
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

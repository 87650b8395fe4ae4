"""Device, precision and data transfer: the one module that knows about accelerators."""

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field

from hsfm.core.settings import FrozenSettings

log = logging.getLogger(__name__)

# on the CPU: 5 images of 224 x 224; measured in docs/explanation/performance.md
PIXELS_AT_ONCE = 2**18


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA where there is one, else the CPU.

    Raises ValueError for an unknown name, and when CUDA is asked for by name and absent: no silent fallback.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if os.environ.get("CUDA_VISIBLE_DEVICES"):
            log.warning("CUDA_VISIBLE_DEVICES is set, but torch finds no CUDA device: computing on the CPU")
        return torch.device("cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device: {name!r} is unknown; allowed are auto, cpu, cuda, cuda:0, ...")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name!r} was asked for, but torch {torch.__version__} finds no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device: {name!r} was asked for, but torch finds {count} CUDA devices, counted from 0")
    return device


class ComputeSettings(FrozenSettings):
    """Precision, determinism and memory of networks; results differ in rounding alone."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of forward passes: auto is bfloat16 on CUDA and float32 on the CPU; bfloat16 is slow on a "
        "processor without its instructions.",
    )
    deterministic: bool = Field(
        True,
        description="On CUDA: the same bits for the same seed, at some cost; a layer that has no kernel for it is an "
        "error. The CPU repeats them anyway.",
    )
    compile: bool = Field(
        False,
        description="Networks through torch.compile: slower at the start of each job, and faster steps afterwards "
        "where a GPU waits for Python.",
    )
    images_on_gpu_gb: float = Field(
        32.0,
        ge=0,
        description="Packed or cached images up to this size, and up to half of the free GPU memory, stay on the GPU "
        "while training; larger ones are copied batch by batch.",
    )


@dataclass(frozen=True)
class Compute:
    """A device and how networks are run on it."""

    device: torch.device
    settings: ComputeSettings = field(default_factory=ComputeSettings)

    @staticmethod
    def on(name: str, **settings: Any) -> "Compute":
        return Compute(choose_device(name), ComputeSettings(**settings))

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of forward passes. Under `auto` a GPU without bfloat16 takes float16."""
        if self.settings.precision == "auto" and not self.on_cpu:
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if self.settings.precision == "bfloat16" else torch.float32

    def autocast(self) -> AbstractContextManager:
        """Context of forward passes."""
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if low else torch.bfloat16, enabled=low)

    def scaler(self) -> torch.amp.GradScaler:
        """A scaler that keeps gradients within float16's range; does nothing in the other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepare(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network on the device, in the memory order in which convolutions are fastest."""
        return network.to(self.device, memory_format=torch.channels_last)

    def parts(self, n: int, height: int, width: int) -> list[slice]:
        """Cuts of n images of this size for a network: all at once on a GPU, a few at a time on the CPU.

        There what lies between two layers then stays in the caches. The network's rows do not depend on one another.
        """
        size = max(PIXELS_AT_ONCE // (height * width), 1) if self.on_cpu else n
        return [slice(first, first + size) for first in range(0, n, size)]

    def compiled(self, function: Callable) -> Callable:
        return torch.compile(function) if self.settings.compile else function

    def keeps(self, n_bytes: int) -> bool:
        """Whether so many bytes may stay on the GPU: within the budget and half of what is free there."""
        return not self.on_cpu and n_bytes <= min(
            self.settings.images_on_gpu_gb * 1e9, torch.cuda.mem_get_info(self.device)[0] / 2
        )

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Within it CUDA's kernels give the same bits for the same seed, or else are the fastest ones."""
        if self.on_cpu:
            yield
            return
        # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(self.settings.deterministic)
        torch.backends.cudnn.benchmark = not self.settings.deterministic
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]


_END = object()


def prefetch(items: Iterable[Any]) -> Iterator[Any]:
    """The same items, of which a thread makes up to two while earlier ones are in use."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, _END) for _ in range(2))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, items, _END))
            yield item


def upload(items: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Items on `device`; for a GPU a thread brings them ahead of use into memory from which it copies without waiting.

    An item has `pinned()`, itself in such memory, and `to(device)`, which may return before it has copied.
    """
    if device.type == "cpu":
        yield from items
    else:
        for item in prefetch(item.pinned() for item in items):
            yield item.to(device)

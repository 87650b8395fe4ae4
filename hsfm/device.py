"""Where tensors live: the one place that knows about accelerators."""

import ctypes
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the Snakefile asks `accelerator_present` and must not wait for torch
    import torch


def accelerator_present() -> bool:
    """Whether the CUDA driver finds a device, asked without importing torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def choose_device(name: str = "auto") -> "torch.device":
    """The device called `name`; `auto` is CUDA where there is one, else the CPU.

    Raises ValueError for an unknown name, and when CUDA is asked for by name and absent: no silent fallback.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: {name!r} is unknown; allowed are auto, cpu, cuda, cuda:0, cuda:1, ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name!r} was asked for, but torch {torch.__version__} finds no CUDA device")
    return device


def mixed_precision(device: "torch.device") -> tuple[AbstractContextManager, "torch.amp.GradScaler"]:
    """Autocast context and gradient scaler for training on `device`; both do nothing on the CPU.

    bfloat16 where the device has it; older ones take float16, whose short range needs the scaler.
    """
    import torch

    on = device.type != "cpu"
    bfloat16 = not on or torch.cuda.is_bf16_supported(including_emulation=False)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16 if bfloat16 else torch.float16, enabled=on)
    return autocast, torch.amp.GradScaler(device.type, enabled=on and not bfloat16)

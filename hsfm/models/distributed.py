"""Data-parallel training by torch's DistributedDataParallel; nothing changes in a process that is alone.

Processes draw the same random numbers, and each computes its share of every batch.
"""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """The number of this process among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def process_count() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(n: int) -> slice:
    """The rows of n that this process computes: of k processes every k-th row."""
    return slice(rank(), n, process_count())


def total(values: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if process_count() > 1:
        dist.all_reduce(values)
    return values


def data_parallel(network: nn.Module, forward: Callable) -> Callable:
    """A forward pass of which gradients are averaged over processes; `forward` where this process is alone.

    On GPUs the network's BatchNorm layers become SyncBatchNorm, of the same names, parameters and buffers; torch has
    none for the CPU. Raises ValueError for BatchNorm of another library, which may do more than normalize.
    """
    if process_count() == 1:
        return forward
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and not type(layer).__module__.startswith("torch.nn."):
            raise ValueError(
                f"training_gpus: the network has a {type(layer).__name__}, whose statistics several GPUs cannot share; "
                "set training_gpus: 1"
            )
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network)

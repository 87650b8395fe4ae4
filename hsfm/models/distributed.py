"""Data-parallel training in several processes, each with its own device.

The invariant: every step is the one that a single process would make on the whole batch, up to rounding and dropout.
Each process draws all random numbers of an epoch and computes its part of every batch; losses are weighted by the sizes
of the parts, gradients averaged (DistributedDataParallel), and BatchNorm's statistics are those of the whole batch.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hsfm.core.device import Compute


@dataclass(frozen=True)
class Step:
    """The part of one batch that one process computes."""

    scale: float  # of the mean loss of its part, so that the mean over processes is the mean of the batch
    whole: bool  # whether every process takes the whole batch, which has fewer images than there are processes


@dataclass(frozen=True)
class Share:
    """The part of an epoch that one process computes; of a process that is alone, everything."""

    rows: slice | Int[Tensor, " m"]  # places in the epoch's order
    sizes: int | list[int]  # of its batches, as torch.split takes them
    steps: list[Step] | None = None  # None for a process that is alone
    first: bool = True

    def __post_init__(self):
        assert self.steps is None or len(self.steps) == len(self.sizes)

    def scaled(self, loss: Float[Tensor, ""], step: int) -> Float[Tensor, ""]:
        """The loss whose gradients are averaged over processes, from the mean of this part."""
        return loss if self.steps is None else loss * self.steps[step].scale

    def batchnorm(self, step: int) -> AbstractContextManager:
        """A context for the forward pass of a step."""
        return _apart() if self.steps is not None and self.steps[step].whole else nullcontext()

    def counts(self, step: int) -> bool:
        """Whether this process reports what it found in a step: of what all have computed, only the first does."""
        return self.steps is None or self.first or not self.steps[step].whole


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1

    @staticmethod
    def here() -> "Processes":
        """Those that torch.distributed joins to this one; this one alone where it joins none."""
        if dist.is_available() and dist.is_initialized():
            return Processes(dist.get_rank(), dist.get_world_size())
        return Processes()

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this one writes what all have found."""
        return self.rank == 0

    def share(self, n: int, batch_size: int) -> Share:
        """This process's share of n images that are learned in consecutive batches."""
        if self.alone:
            return Share(slice(None), batch_size)
        rows, steps = [], []
        for batch in torch.arange(n).split(batch_size):
            whole = len(batch) < self.count
            rows.append(batch if whole else batch.tensor_split(self.count)[self.rank])
            steps.append(Step(1.0 if whole else len(rows[-1]) * self.count / len(batch), whole))
        return Share(torch.cat(rows), [len(part) for part in rows], steps, self.first)

    def part(self, n: int) -> slice:
        """This process's consecutive part of n rows."""
        if self.alone:
            return slice(None)
        sizes = self._sizes(n)
        return slice(sum(sizes[: self.rank]), sum(sizes[: self.rank + 1]))

    def gathered(self, parts: Sequence[Float[Tensor, "_k c"]], n: int, like: nn.Linear) -> Float[Tensor, "n c"]:
        """The n outputs of a layer, from what each process has computed of its `part`; the same in all."""
        if self.alone:
            return torch.cat(list(parts))
        sizes = self._sizes(n)
        padded = torch.zeros(max(sizes), like.out_features, device=like.weight.device)
        if parts:  # a process beyond the last row has none
            padded[: sizes[self.rank]] = torch.cat(list(parts))
        every = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(every, padded)
        return torch.cat([one[:size] for one, size in zip(every, sizes, strict=True)])

    def totals(self, *values: Tensor | int) -> list[Tensor | int]:
        """Sums over all processes."""
        if self.alone:
            return list(values)
        device = next(value.device for value in values if isinstance(value, Tensor))
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in values])
        dist.all_reduce(sums)
        return list(sums.unbind())

    def _sizes(self, n: int) -> list[int]:
        return [len(part) for part in torch.arange(n).tensor_split(self.count)]

    @contextmanager
    def together(self, network: nn.Module, forward: Callable, compute: Compute) -> Iterator[Callable]:
        """A forward pass whose gradients are averaged over processes; `forward` where this one is alone.

        Within the block BatchNorm layers are replaced by such as see the whole batch, of the same parameters, buffers
        and names. Raises ValueError for a layer that has no such form, and where the network is compiled.
        """
        if self.alone:
            yield forward
            return
        if compute.settings.compile:
            raise ValueError("compile: not on several GPUs; set it to false, or training_gpus to 1")
        replaced = _synchronize(network, SyncedOnCPU if compute.on_cpu else SyncedOnGPU)
        # the statistics are the same everywhere; torch 2.14 has renamed what keeps them from being sent round
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        try:
            yield DistributedDataParallel(network, **{name: False})
        finally:
            for parent, name, before in replaced:
                before.train(getattr(parent, name).training)
                setattr(parent, name, before)


# BatchNorm ------------------------------------------------------------------------------------------------------------


class SyncedOnGPU(nn.SyncBatchNorm):
    """BatchNorm by the statistics of all processes' batches, as torch has it: on GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        return _BatchNorm.forward(self, x) if _Apart.now else super().forward(x)


class SyncedOnCPU(_BatchNorm):
    """The same on the CPU, by sums over processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _Apart.now:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [0, *range(2, x.dim())]  # all but the channels
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = values.new_tensor([values.numel() // values.shape[1]])
        total, n = _Sum.apply(torch.cat([values.sum(others), count])).split([values.shape[1], 1])
        # the mean first: a variance from sums of squares would lose its digits where the mean is large
        n = n.detach()
        mean = total / n
        centered = values - mean.view(shape)
        variance = _Sum.apply(centered.square().sum(others)) / n
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * n / (n - 1))
        out = centered * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape)
        if self.bias is not None:
            out = out + self.bias.view(shape)
        return out.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; their variance is the unbiased one, as torch's is."""
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes. All losses depend on it, so that its gradient is a sum as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


class _Apart:
    """Whether each process has the whole batch for itself."""

    now = False


@contextmanager
def _apart() -> Iterator[None]:
    _Apart.now = True
    try:
        yield
    finally:
        _Apart.now = False


def _synchronize(network: nn.Module, kind: type[_BatchNorm]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replace the BatchNorm layers of a network; which lay where before."""
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm)
    ]
    for _, name, child in found:
        if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise ValueError(
                f"training_gpus: the layer {name} is a {type(child).__name__}, whose statistics several GPUs cannot "
                "share; set training_gpus: 1"
            )
    for parent, name, child in found:
        synced = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
        synced.weight, synced.bias = child.weight, child.bias
        synced.running_mean, synced.running_var = child.running_mean, child.running_var
        synced.num_batches_tracked = child.num_batches_tracked
        setattr(parent, name, synced.train(child.training))
    return found

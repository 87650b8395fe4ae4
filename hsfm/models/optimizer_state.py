"""Conversion of optimizer state to named tensors and back, so that resuming unpickles nothing."""

from collections.abc import Mapping

import torch
from torch import Tensor


def as_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and counters, named by the number of their parameter."""
    return {
        f"{number}.{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)  # SGD without momentum holds None
    }


def load_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer of the same parameters what `as_tensors` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        # moments in the memory order of their parameter, which kernels that take both at once rely on
        here = torch.empty_like(parameter).copy_(value).detach() if value.shape == parameter.shape else value
        state["state"].setdefault(int(number), {})[name] = here
    optimizer.load_state_dict(state)

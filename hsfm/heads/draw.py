"""Random draws of images, class by class."""

import torch
from jaxtyping import Int
from torch import Generator, Tensor


def draw_per_class(y: Int[Tensor, " n"], per_class: int, n_classes: int, generator: Generator) -> Int[Tensor, " k"]:
    """Rows of `per_class` random images of each class, or all of a smaller one; `generator` is on the CPU.

    Classes ascend; within each, one permutation of its rows in table order is drawn and cut.
    """
    chosen = []
    for label in range(n_classes):
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:per_class].to(members.device)])
    return torch.cat(chosen)

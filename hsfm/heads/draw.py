"""Random draws of images, class by class."""

import torch
from jaxtyping import Bool, Int
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


def draw_sides(
    y: Int[Tensor, " n"], other: Bool[Tensor, " n"], per_class: int, n_classes: int, generator: Generator
) -> Int[Tensor, " k"]:
    """`per_class` rows of each class, or as many as it has, half of them of either side; `generator` is on the CPU.

    other: the side. Each side is one random permutation, cut, or repeated where it has fewer rows than the half. Every
    class needs a row of both sides. Classes ascend, and the side that is not `other` comes first.
    """
    chosen = []
    for label in range(n_classes):
        half = max(1, min(per_class, int((y == label).sum())) // 2)
        for of_side in (~other, other):
            members = ((y == label) & of_side).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator).repeat(-(-half // len(members)))
            chosen.append(members[order[:half].to(members.device)])
    return torch.cat(chosen)

"""Random draws of images, class by class."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

PerClass = int | Sequence[int]  # rows of each class, or of every class its own number


def sizes_of(per_class: PerClass, n_classes: int) -> tuple[int, ...]:
    return (per_class,) * n_classes if isinstance(per_class, int) else tuple(per_class)


def draw_per_class(
    y: Int[Tensor, " n"], per_class: PerClass, n_classes: int, generator: Generator
) -> Int[Tensor, " k"]:
    """Rows of `per_class` random images of each class, or all of a smaller one; `generator` is on the CPU.

    Classes ascend; within each, one permutation of its rows in table order is drawn and cut.
    """
    chosen = []
    for label, size in enumerate(sizes_of(per_class, n_classes)):
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:size].to(members.device)])
    return torch.cat(chosen)


def draw_sides(
    y: Int[Tensor, " n"], other: Bool[Tensor, " n"], per_class: PerClass, n_classes: int, generator: Generator
) -> Int[Tensor, " k"]:
    """`per_class` rows of each class, or as many as it has, half of them of either side; `generator` is on the CPU.

    other: the side. Each side is one random permutation, cut, or repeated where it has fewer rows than the half. Every
    class needs a row of both sides. Classes ascend, and the side that is not `other` comes first.
    """
    chosen = []
    for label, size in enumerate(sizes_of(per_class, n_classes)):
        half = max(1, min(size, int((y == label).sum())) // 2)
        for of_side in (~other, other):
            members = ((y == label) & of_side).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator).repeat(-(-half // len(members)))
            chosen.append(members[order[:half].to(members.device)])
    return torch.cat(chosen)

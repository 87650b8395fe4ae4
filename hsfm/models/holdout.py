"""Choice of training images that are held out from a network."""

import torch
from jaxtyping import Int
from torch import Tensor


def hold_out(y: Int[Tensor, " n"], share: float, seed: int) -> Int[Tensor, " k"]:
    """Rows of a share of the images, drawn at random, in rising order; both parts have every class.

    Raises ValueError where a class has too few images for that.
    """
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    rows, _ = order[: round(share * len(y))].sort()
    for label in y.unique().tolist():
        found, there = int((y[rows] == label).sum()), int((y == label).sum())
        if not 0 < found < there:
            raise ValueError(f"holdout: {share} takes {found} of {there} images of class {label}; both parts need some")
    return rows

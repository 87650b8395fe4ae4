"""Accuracies by class and group."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def count_by(
    correct: Bool[Tensor, "*s n"], part: Int[Tensor, " n"], n_parts: int
) -> tuple[Int[Tensor, "*s p"], Int[Tensor, " p"]]:
    """Correct predictions and images in each of `n_parts` parts; a row with part -1 counts nowhere."""
    members = torch.nn.functional.one_hot(part + 1, n_parts + 1)[:, 1:].double()
    # sums of zeros and ones are exact in float64 up to 2^53, and a matrix product has no loop over rows
    return (correct.double() @ members).long(), members.sum(0).long()


def accuracy_by(correct: Bool[Tensor, "*s n"], part: Int[Tensor, " n"], n_parts: int) -> Float[Tensor, "*s p"]:
    """Accuracy in each part, NaN where a part has no image."""
    hits, images = count_by(correct, part, n_parts)
    return hits.double() / images


def worst(accuracies: Float[Tensor, "*s p"]) -> Float[Tensor, "*s"]:
    """The lowest accuracy; parts without images (NaN) are left out."""
    return torch.where(accuracies.isnan(), torch.inf, accuracies).amin(dim=-1)

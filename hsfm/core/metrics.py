"""Accuracies by class and group."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def accuracy_by(correct: Bool[Tensor, "*s n"], part: Int[Tensor, " n"], n_parts: int) -> Float[Tensor, "*s p"]:
    """Accuracy in each of `n_parts` parts, NaN where one has no image; a row with part -1 counts nowhere."""
    members = torch.nn.functional.one_hot(part + 1, n_parts + 1)[:, 1:].double()
    # sums of zeros and ones are exact in float64 up to 2^53, and a matrix product has no loop over rows
    return (correct.double() @ members) / members.sum(0)


def worst(accuracies: Float[Tensor, "*s p"]) -> Float[Tensor, "*s"]:
    """The lowest accuracy; parts without images (NaN) are left out."""
    return torch.where(accuracies.isnan(), torch.inf, accuracies).amin(dim=-1)


def validation_measures(
    correct: Bool[Tensor, "*s n"], y: Int[Tensor, " n"], group: Int[Tensor, " n"], n_classes: int, n_groups: int
) -> dict[str, Float[Tensor, "*s"]]:
    """val_average, val_worst_group (NaN where no group is known) and val_worst_class of some predictions."""
    classes = worst(accuracy_by(correct, y, n_classes))
    groups = worst(accuracy_by(correct, group, n_groups))
    return {
        "val_average": correct.double().mean(-1),
        # without a known group every part is empty, and the lowest of none is infinite
        "val_worst_group": groups.where(groups.isfinite(), torch.nan),
        "val_worst_class": classes,
    }

"""Group DRO: the head trained on the groups' losses, weighted exponentially by how high they have been.

With L_g the mean loss of group g, each step takes

    q_g  proportional to  q_g exp(eta (L_g + C / sqrt(n_g)))
    loss = sum_g q_g L_g + penalty / 2 |W|^2

Letters: n images, d features, c classes, g groups, k penalties.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.held_out import fit_chosen
from hsfm.heads.method_settings import Groups, Halves, MethodSettings
from hsfm.heads.scorer import Scorer

LABEL = "Group DRO"
SOURCE = "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020"

STATES = 20  # of a training that the scorer chooses from


class Settings(MethodSettings):
    on: Literal["val", "train"] = Field(
        "val", description="Split that the head learns from; its group labels are read."
    )
    penalties: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = Field(
        (0.0, 0.001, 0.01, 0.1), description="Strengths of the L2 penalty on standardized features, to choose from."
    )
    eta: PositiveFloat = Field(0.01, description="Step size of the groups' weights (the authors' code).")
    adjustment: NonNegativeFloat = Field(0.0, description="C: added to a group's loss as C / sqrt(its images).")
    steps: PositiveInt = Field(500, description="Full-batch steps; the one to stop at is chosen, too.")
    lr: PositiveFloat = Field(0.001, description="Of Adam, from ERM's head.")

    @property
    def groups(self) -> Groups:
        return self.on

    @property
    def halves(self) -> Halves:
        return "none" if self.on == "train" else "group"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """Heads `[s c d]` at the penalty and step that score best on rows that did not teach.

    Raises ValueError where a group label of the split is unknown, and on val for a group with a single row.
    """
    # ASSUME: all rows in each step and Adam, where the authors' code draws batches for SGD
    for split in (train, val):
        split.refuse_test(LABEL)
    {"train": train, "val": val}[settings.on].require_attributes(LABEL)

    def heads(rows: Embeddings, candidates: Sequence[tuple], rng: np.random.Generator) -> Head:
        penalties = list(dict.fromkeys(penalty for penalty, _ in candidates))
        states = trajectory(rows, erm, penalties, settings, {step for _, step in candidates})
        picked = [states[step][penalties.index(penalty)] for penalty, step in candidates]
        return Head(torch.stack([head.weight for head in picked]), torch.stack([head.bias for head in picked]))

    every = max(settings.steps // STATES, 1)
    options = {"penalty": settings.penalties, "step": range(every, settings.steps + 1, every)}
    part = (val.group if settings.on == "val" else val.y).numpy()
    return fit_chosen(train, val, options, heads, on=settings.on, part=part, seeds=seeds, scorer=scorer, called=LABEL)


def trajectory(
    rows: Embeddings, erm: Head, penalties: Sequence[float], settings: Settings, steps: set[int]
) -> dict[int, Head]:
    """Heads `[k c d]` on raw features after some steps; every penalty has a training of its own."""
    mean, spread = rows.features.mean(0), rows.features.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    x = (rows.features - mean) / spread
    of_row, count = rows.group.unique(return_inverse=True, return_counts=True)[1:]
    weight = (erm.weight * spread).repeat(len(penalties), 1, 1).requires_grad_()
    bias = (erm.bias + erm.weight @ mean).repeat(len(penalties), 1).requires_grad_()
    penalty = x.new_tensor(penalties)
    q = torch.full((len(penalties), len(count)), 1 / len(count))
    optimizer, found = torch.optim.Adam([weight, bias], lr=settings.lr), {}
    for step in range(1, max(steps) + 1):
        loss = group_losses(Head(weight, bias).logits(x), rows.y, of_row, count)
        q = q * (settings.eta * (loss.detach() + settings.adjustment / count.sqrt())).exp()
        q = q / q.sum(1, keepdim=True)
        optimizer.zero_grad()
        ((q * loss).sum(1) + penalty / 2 * weight.square().flatten(1).sum(1)).sum().backward()
        optimizer.step()
        if step in steps:
            raw = weight.detach() / spread
            found[step] = Head(raw, bias.detach() - raw @ mean)
    return found


def group_losses(
    logits: Float[Tensor, "k n c"], y: Int[Tensor, " n"], of_row: Int[Tensor, " n"], count: Int[Tensor, " g"]
) -> Float[Tensor, "k g"]:
    """Mean cross-entropy of each group."""
    loss = cross_entropy(logits.movedim(2, 1), y.expand(len(logits), -1), reduction="none")
    return torch.zeros(len(logits), len(count)).index_add(1, of_row, loss) / count

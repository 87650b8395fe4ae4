"""SELF, selective last-layer finetuning: ERM's head finetuned on the validation rows about which the network has most
changed its mind since an early epoch.

An early network goes by what is learned first, often the spurious feature; rows that the final one sees otherwise are
often minority.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.held_out import fit_chosen
from hsfm.heads.method_settings import Halves, MethodSettings
from hsfm.heads.scorer import Scorer

LABEL = "SELF"
SOURCE = "LaBonte et al., Towards Last-layer Retraining for Group Robustness with Fewer Annotations, NeurIPS 2023"
EXTRA = ("early_logits",)

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4  # of SGD, as in the authors' code


class Settings(MethodSettings):
    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (20, 100, 500),
        description="Rows to finetune on, to choose from (the authors' code). They are found by logits of an early "
        "epoch: set `erm: early_epoch`, or give `early_logits` in your own embeddings.",
    )
    lrs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        (0.0001, 0.001, 0.01), description="Learning rates of SGD with momentum, to choose from (the authors' code)."
    )
    steps: PositiveInt = Field(250, description="Steps of SGD, each over all chosen rows (the authors' code).")

    @property
    def halves(self) -> Halves:
        return "class"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """SELF's heads `[s c d]`; train is not used.

    val: with `early_logits` `[n c]` in `extra`. Raises NotApplicable without them, and ValueError for a class with a
    single row.
    """
    val.refuse_test(LABEL)
    val.require_extra(LABEL, EXTRA)

    def heads(rows: Embeddings, candidates: Sequence[tuple], rng: np.random.Generator) -> Head:
        apart = disagreement(rows.extra["early_logits"], erm.logits(rows.features))
        order = apart.argsort(descending=True, stable=True)
        return stack([finetuned(rows.take(order[:size]), erm, lr, settings.steps) for size, lr in candidates])

    options, part = {"size": settings.sizes, "lr": settings.lrs}, val.y.numpy()
    return fit_chosen(train, val, options, heads, on="val", part=part, seeds=seeds, scorer=scorer, called=LABEL)


def disagreement(early: Float[Tensor, "n c"], final: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """KL(early || final) of the softmax of each row's logits, in nats."""
    # ASSUME: in this direction, which is that of the authors' code (`kl_div(log(final), early)`)
    early, final = early.log_softmax(1), final.log_softmax(1)
    return (early.exp() * (early - final)).sum(1)


def finetuned(rows: Embeddings, erm: Head, lr: float, steps: int) -> Head:
    """ERM's head after SGD on the mean cross-entropy of the rows' classes, which count alike."""
    # ASSUME: each step is over all rows, weighted, where the authors draw class-balanced batches of augmented images
    weight = 1 / torch.bincount(rows.y)[rows.y]
    weight = weight / weight.sum()
    head = Head(erm.weight.clone().requires_grad_(), erm.bias.clone().requires_grad_())
    optimizer = torch.optim.SGD([head.weight, head.bias], lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight * cross_entropy(head.logits(rows.features), rows.y, reduction="none")).sum().backward()
        optimizer.step()
    return Head(head.weight.detach(), head.bias.detach())

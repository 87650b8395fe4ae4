"""AFR, automatic feature reweighting: the head retrained on training images that ERM has not seen, weighted by how
badly it fits them.

Qiu et al., "Simple and Fast Group Robustness by Automatic Feature Reweighting" (ICML 2023). ERM is trained on a part of
the training images. On the rest, with p_i ERM's probability of the true class and n_y the images of a class,

    w_i  proportional to  exp(-gamma p_i) / n_y,  in all 1
    loss = sum_i w_i CE_i + lambda (|W - W_0|^2 + |b - b_0|^2)

goes down by full-batch gradient steps from ERM's own head (W_0, b_0). No group label of a training image is read.

Letters: n images, d features, c classes, k pairs of gamma and lambda.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from hsfm.core.metrics import accuracy_by, worst
from hsfm.core.progress import track
from hsfm.features.embeddings import Embeddings, check_same_origin
from hsfm.heads.head import Head

HISTORY = ["gamma", "penalty", "step", "val_average", "val_worst_group", "val_worst_class"]
SELECT_BY = {
    "worst_group": "gamma, lambda and the step with the best validation worst group, then average",
    "worst_class": "gamma, lambda and the step with the best validation worst class, then average",
}


@dataclass(frozen=True)
class Result:
    head: Head  # weight [c d], bias [c]
    gamma: float
    penalty: float  # lambda
    step: int  # that was kept, from 1
    history: (
        pd.DataFrame
    )  # per step and pair: gamma, penalty, step, val_average, val_worst_group (NaN where no group is
    # known), val_worst_class, kept


def fit_afr(
    held_out: Embeddings,
    val: Embeddings,
    erm: Head,
    *,
    gammas: Sequence[float],
    penalties: Sequence[float],
    steps: int,
    lr: float,
    clip_norm: float = 1.0,
    select_by: str = "worst_group",
    progress: bool = True,
) -> Result:
    """The head of the best pair and step, judged on val; all pairs are trained side by side.

    held_out: training images that the network was not trained on. erm: its own head. gammas, penalties (lambda): every
    pair of them is tried. lr: of plain gradient descent. clip_norm: longest gradient of a head. select_by:
    `worst_group` (the paper), which reads the group labels of val, or `worst_class`; ties go to the higher average,
    then to the earlier step, the first gamma, the first lambda.

    Raises ValueError for settings that cannot be, an unknown group of val that would have to be read, and a loss that
    is not finite.
    """
    _check(held_out, val, gammas, penalties, steps, lr, clip_norm, select_by)
    pairs = list(product(gammas, penalties))
    weights = torch.stack([weigh(erm, held_out, gamma) for gamma, _ in pairs])
    penalty = torch.tensor([value for _, value in pairs], device=weights.device)
    # one wider column holds the bias, so that a head is one matrix
    x, x_val = _with_ones(held_out.features), _with_ones(val.features)
    start = torch.cat([erm.weight, erm.bias[:, None]], 1)
    w = start.expand(len(pairs), -1, -1).clone()
    target = one_hot(held_out.y, held_out.n_classes).to(x)
    grouped = bool((val.group >= 0).any())
    best, rows = (-1.0, -1.0), []
    kept = (start, 0, 0)
    for step in track(range(1, steps + 1), "AFR", "step", shown=progress):
        w = w - lr * _clipped(_gradient(w, start, x, target, weights, penalty), clip_norm)
        if not w.isfinite().all():
            raise ValueError(f"AFR: a head is no longer finite after step {step}; lower lr (now {lr})")
        correct = _logits(w, x_val).argmax(-1) == val.y
        average, classes = correct.double().mean(1), worst(accuracy_by(correct, val.y, val.n_classes))
        groups = (
            worst(accuracy_by(correct, val.group, val.n_groups)) if grouped else torch.full_like(classes, torch.nan)
        )
        measures = torch.stack([average, groups, classes]).T.tolist()
        for number, (gamma, value) in enumerate(pairs):
            rows.append((gamma, value, step, *measures[number]))
            score = (measures[number][1 if select_by == "worst_group" else 2], measures[number][0])
            if score > best:
                best, kept = score, (w[number].clone(), number, step)
    head, number, step = kept
    gamma, value = pairs[number]
    history = pd.DataFrame(rows, columns=HISTORY)
    history["kept"] = np.arange(len(rows)) == (step - 1) * len(pairs) + number
    return Result(Head(head[:, :-1].cpu(), head[:, -1].cpu()), float(gamma), float(value), step, history)


def weigh(erm: Head, held_out: Embeddings, gamma: float | int) -> Float[Tensor, " n"]:
    """How much each image counts, in all 1."""
    p = erm.logits(held_out.features).softmax(-1).gather(1, held_out.y[:, None])[:, 0]
    weight = (-gamma * p).exp() / torch.bincount(held_out.y, minlength=held_out.n_classes)[held_out.y]
    return weight / weight.sum()


def _with_ones(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d1"]:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def _logits(w: Float[Tensor, "k c d1"], x: Float[Tensor, "n d1"]) -> Float[Tensor, "k n c"]:
    return (x @ w.flatten(0, 1).T).unflatten(1, w.shape[:2]).movedim(1, 0)


def _gradient(
    w: Float[Tensor, "k c d1"],
    start: Float[Tensor, "c d1"],
    x: Float[Tensor, "n d1"],
    target: Float[Tensor, "n c"],
    weights: Float[Tensor, "k n"],
    penalty: Float[Tensor, " k"],
) -> Float[Tensor, "k c d1"]:
    """sum_i w_i (softmax(z_i) - e_y) x_i + 2 lambda (W - W_0)"""
    slope = weights[:, :, None] * (_logits(w, x).softmax(-1) - target)
    return (slope.movedim(0, 1).flatten(1).T @ x).unflatten(0, w.shape[:2]) + 2 * penalty[:, None, None] * (w - start)


def _clipped(gradient: Float[Tensor, "k c d1"], longest: float | int) -> Float[Tensor, "k c d1"]:
    norm = gradient.flatten(1).norm(dim=1)[:, None, None]
    return gradient * (longest / norm.clamp(min=longest))


def _check(
    held_out: Embeddings,
    val: Embeddings,
    gammas: Sequence[float],
    penalties: Sequence[float],
    steps: int,
    lr: float,
    clip_norm: float,
    select_by: str,
) -> None:
    check_same_origin(held_out, val)
    for embeddings in (held_out, val):
        embeddings.refuse_test("AFR")
    for name, values in (("gammas", gammas), ("penalties", penalties)):
        if not values or not all(0 <= value < float("inf") for value in values):
            raise ValueError(f"{name}: {list(values)} is empty or holds a number that is not 0 or above")
    for name, value in (("lr", lr), ("clip_norm", clip_norm)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: {value} is not a positive number")
    if steps < 1:
        raise ValueError(f"steps: {steps} is not a number of steps from 1")
    if select_by not in SELECT_BY:
        raise ValueError(f"select_by: {select_by!r} is unknown; allowed are {', '.join(SELECT_BY)}")
    if select_by == "worst_group":
        val.require_attributes("AFR's select_by: worst_group")

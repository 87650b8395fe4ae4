"""AFR, automatic feature reweighting: the head retrained on training images that ERM has not seen, weighted by how
badly it fits them.

ERM is trained on a part of the training images. On the rest, with p_i ERM's probability of the true class and n_y the
images of a class,

    w_i  proportional to  exp(-gamma p_i) / n_y,  in all 1
    loss = sum_i w_i CE_i + lambda (|W - W_0|^2 + |b - b_0|^2)

goes down by full-batch gradient steps from ERM's own head (W_0, b_0). No group label of a training image is read.

Letters: n images, d features, c classes, k pairs of gamma and lambda.
"""

from collections.abc import Sequence
from itertools import product
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import one_hot

from hsfm.core.progress import track
from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings, check_same_origin
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer

LABEL = "AFR"
SOURCE = "Qiu et al., Simple and Fast Group Robustness by Automatic Feature Reweighting, ICML 2023"
COLOR = "#E69F00"
MARKER = "<"
FEATURES = "own"  # of a network that ERM trains on a share of the training images
DEVICE = True
TABLES = ("history",)

Numbers = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]


class Settings(MethodSettings):
    gammas: Numbers = Field((4, 8, 12, 16, 20), description="gamma: how much more images that ERM fits badly count.")
    penalties: Numbers = Field((0.0, 0.1, 0.2, 0.3), description="lambda: pull to ERM's head; every pair is tried.")
    steps: PositiveInt = Field(500, description="Full-batch gradient steps.")
    lr: PositiveFloat = Field(0.01, description="Of plain gradient descent.")
    clip_norm: PositiveFloat = Field(1.0, description="Longest gradient of a head.")


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """The head `[1 c d]` of the best pair and step by the scorer; all pairs are trained side by side.

    train: images that the network was not trained on. erm: that network's own head. seeds: nothing is drawn, so that
    there is one head, under the first. Ties go to the higher average, then to the earlier step, the first gamma, the
    first lambda. The history has a row per step (epoch: a step takes all images) and pair (trial).

    Raises ValueError for embeddings that do not belong together, and for a head that is no longer finite.
    """
    check_same_origin(train, val)
    for embeddings in (train, val):
        embeddings.refuse_test("AFR")
    pairs = list(product(settings.gammas, settings.penalties))
    weights = torch.stack([weigh(erm, train, gamma) for gamma, _ in pairs])
    penalty = torch.tensor([value for _, value in pairs], device=weights.device)
    # one wider column holds the bias, so that a head is one matrix
    x, x_val = (torch.cat([part.features, torch.ones_like(part.features[:, :1])], 1) for part in (train, val))
    start = torch.cat([erm.weight, erm.bias[:, None]], 1)
    w = start.expand(len(pairs), -1, -1).clone()
    target = one_hot(train.y, train.n_classes).to(x)
    gammas, penalties = np.array(pairs, dtype=float).T
    of_pairs = {"trial": np.arange(len(pairs)), "gamma": gammas, "penalty": penalties}
    best, kept, measured = (-1.0, -1.0), (start, 0, 0), []
    for step in track(range(1, settings.steps + 1), "AFR", "step"):
        gradient, longest = _gradient(w, start, x, target, weights, penalty), settings.clip_norm
        norm = gradient.flatten(1).norm(dim=1)[:, None, None]
        w = w - settings.lr * (gradient * (longest / norm.clamp(min=longest)))
        if not w.isfinite().all():
            raise ValueError(f"AFR: a head is no longer finite after step {step}; lower lr (now {settings.lr})")
        measures = scorer.measures(_logits(w, x_val))
        of_step = {name: values.cpu().numpy() for name, values in measures.items()}
        measured.append(pd.DataFrame({**of_step, "seed": seeds[0], "epoch": step, **of_pairs}))
        scores = torch.stack([scorer.choose(measures), measures["val_average"]]).T.tolist()
        for number, score in enumerate(map(tuple, scores)):
            if score > best:
                best, kept = score, (w[number].clone(), number, step)
    head, number, step = kept
    (gamma, value), history = map(float, pairs[number]), pd.concat(measured, ignore_index=True)
    history["kept"] = (history["epoch"] == step) & (history["trial"] == number)
    return Fit(
        head=Head(head[None, :, :-1].cpu(), head[None, :, -1].cpu()),
        seeds=tuple(seeds[:1]),
        chosen_by=f"gamma, lambda and the step with the best validation {scorer.in_words}, then average",
        summary=f"validation {scorer.in_words} {percent([best[0]])} (gamma {gamma:g}, lambda {value:g}, step {step})",
        settings={"gamma": gamma, "penalty": value, "step": step},
        tables={"history": history},
    )


def weigh(erm: Head, held_out: Embeddings, gamma: float | int) -> Float[Tensor, " n"]:
    """Weights of the images, in all 1."""
    p = erm.logits(held_out.features).softmax(-1).gather(1, held_out.y[:, None])[:, 0]
    weight = (-gamma * p).exp() / torch.bincount(held_out.y, minlength=held_out.n_classes)[held_out.y]
    return weight / weight.sum()


def _logits(w: Float[Tensor, "k c d1"], x: Float[Tensor, "n d1"]) -> Float[Tensor, "k n c"]:
    return (x @ w.flatten(0, 1).T).unflatten(1, w.shape[:2]).movedim(1, 0)


def _gradient(
    w: Float[Tensor, "k c d1"], start: Float[Tensor, "c d1"], x: Float[Tensor, "n d1"],
    target: Float[Tensor, "n c"], weights: Float[Tensor, "k n"], penalty: Float[Tensor, " k"],
) -> Float[Tensor, "k c d1"]:  # fmt: skip
    """sum_i w_i (softmax(z_i) - e_y) x_i + 2 lambda (W - W_0)"""
    slope = weights[:, :, None] * (_logits(w, x).softmax(-1) - target)
    return (slope.movedim(0, 1).flatten(1).T @ x).unflatten(0, w.shape[:2]) + 2 * penalty[:, None, None] * (w - start)

"""AFR, automatic feature reweighting: the head retrained on training images that ERM has not seen, weighted by how
badly it fits them.

ERM is trained on a part of the training images. On the rest, or on validation for whoever has no network trained on a
part, with p_i ERM's probability of the true class and n_y the images of a class,

    w_i  proportional to  exp(-gamma p_i) / n_y,  in all 1
    loss = sum_i w_i CE_i + lambda (|W - W_0|^2 + |b - b_0|^2)

goes down by full-batch gradient steps from ERM's own head (W_0, b_0). No group label of a training image is read.

Letters: n images, d features, c classes, k pairs of gamma and lambda.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import one_hot

from hsfm.core.progress import track
from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings, check_same_origin
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.held_out import rows_to_learn
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import weigh

LABEL = "AFR"
SOURCE = "Qiu et al., Simple and Fast Group Robustness by Automatic Feature Reweighting, ICML 2023"
COLOR = "#E69F00"
MARKER = "<"
# by the setting `on`: of a network that ERM trains on a share of the training images, or ERM's
FEATURES = {"train": "own", "val": "erm"}
DEVICE = True
TABLES = ("history",)

Numbers = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]


class Settings(MethodSettings):
    on: Literal["train", "val"] = Field(
        "train",
        description="Rows that teach: training images that a network of AFR's own was not trained on (the paper), or "
        "validation, with ERM's network.",
    )
    gammas: Numbers = Field((4, 8, 12, 16, 20), description="gamma: how much more images that ERM fits badly count.")
    penalties: Numbers = Field((0.0, 0.1, 0.2, 0.3), description="lambda: pull to ERM's head; every pair is tried.")
    steps: PositiveInt = Field(500, description="Full-batch gradient steps.")
    lr: PositiveFloat = Field(0.01, description="Of plain gradient descent.")
    clip_norm: PositiveFloat = Field(1.0, description="Longest gradient of a head.")


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """AFR's heads `[s c d]` at the best pair and step by the scorer; all pairs are trained side by side.

    train: images that the network was not trained on; not used with `on: val`. erm: that network's own head. Ties go to
    the higher average, then to the earlier step, the first gamma, the first lambda. On train all of validation scores,
    and nothing is drawn, so that there is one head, under the first seed. On validation each seed draws the half that
    scores; the pair and step that the other half led to are then fitted on all of it. The history has a row per step
    (epoch: a step takes all images) and pair (trial).

    Raises ValueError for embeddings that do not belong together, and for a head that is no longer finite.
    """
    check_same_origin(train, val)
    for embeddings in (train, val):
        embeddings.refuse_test("AFR")
    pairs = list(product(settings.gammas, settings.penalties))
    seeds = tuple(seeds if settings.on == "val" else seeds[:1])
    heads, scores, found, histories = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        taught, held_out = rows_to_learn(train, val, settings.on, val.y.cpu().numpy(), rng)
        w, score, number, step, history = _search(taught, val, held_out, erm, pairs, settings, scorer)
        if settings.on == "val":
            *_, (_, w) = _descend(val, erm, [pairs[number]], settings, step)
            w = w[0]
        heads.append(Head(w[:, :-1].cpu(), w[:, -1].cpu()))
        scores.append(score)
        found.append((*map(float, pairs[number]), step))
        histories.append(history.assign(seed=seed))
    where = "" if settings.on == "train" else " of one half"
    said = ", ".join(
        f"gamma {gamma:g}, lambda {penalty:g}, step {step}" for gamma, penalty, step in dict.fromkeys(found)
    )
    named = dict(zip(("gamma", "penalty", "step"), zip(*found, strict=True), strict=True))
    return Fit(
        head=stack(heads),
        seeds=seeds,
        chosen_by=f"gamma, lambda and the step with the best validation {scorer.in_words}{where}, then average",
        summary=f"validation {scorer.in_words}{where} {percent(scores)} ({said})",
        settings={name: values[0] if settings.on == "train" else list(values) for name, values in named.items()},
        tables={"history": pd.concat(histories, ignore_index=True)},
    )


def _search(
    taught: Embeddings, val: Embeddings, held_out: Int[Tensor, " m"], erm: Head, pairs: Sequence[tuple],
    settings: Settings, scorer: Scorer,
) -> tuple[Float[Tensor, "c d1"], float, int, int, pd.DataFrame]:  # fmt: skip
    """The best head, its score, pair and step; and the history of all, measured on the held-out rows."""
    x_val = _with_ones(val.features[held_out.to(val.y.device)])
    gammas, penalties = np.array(pairs, dtype=float).T
    of_pairs = {"trial": np.arange(len(pairs)), "gamma": gammas, "penalty": penalties}
    best, kept, measured = (-1.0, -1.0), (torch.empty(0, 0), 0, 0), []
    for step, w in track(_descend(taught, erm, pairs, settings, settings.steps), "AFR", "step", settings.steps):
        measures = scorer.measures(_logits(w, x_val).permute(2, 0, 1), held_out)
        of_step = {name: values.cpu().numpy() for name, values in measures.items()}
        measured.append(pd.DataFrame({**of_step, "epoch": step, **of_pairs}))
        scores = torch.stack([scorer.choose(measures), measures["val_average"]]).T.tolist()
        for number, score in enumerate(map(tuple, scores)):
            if score > best:
                best, kept = score, (w[number].clone(), number, step)
    head, number, step = kept
    history = pd.concat(measured, ignore_index=True)
    history["kept"] = (history["epoch"] == step) & (history["trial"] == number)
    return head, best[0], number, step, history


def _descend(
    taught: Embeddings, erm: Head, pairs: Sequence[tuple], settings: Settings, steps: int
) -> Iterator[tuple[int, Float[Tensor, "k c d1"]]]:
    """Number of the step and the heads of all pairs after it; one wider column holds the bias.

    A gradient's rows sum to zero over classes, so that what a head has moved by is computed of all rows but the first.
    """
    weights = torch.stack([weigh(erm, taught, gamma) for gamma, _ in pairs])
    penalty = torch.tensor([value for _, value in pairs], device=weights.device)
    x, start = _with_ones(taught.features), torch.cat([erm.weight, erm.bias[:, None]], 1)
    logits, target = x @ start.T, one_hot(taught.y, taught.n_classes).to(x)
    moved = torch.zeros_like(start[1:]).expand(len(pairs), -1, -1)
    for step in range(1, steps + 1):
        gradient = _gradient(moved, logits, x, target, weights, penalty)
        norm = _with_first(gradient, 1).flatten(1).norm(dim=1)[:, None, None]
        moved = moved - settings.lr * (gradient * (settings.clip_norm / norm.clamp(min=settings.clip_norm)))
        if not moved.isfinite().all():
            raise ValueError(f"AFR: a head is no longer finite after step {step}; lower lr (now {settings.lr})")
        yield step, start + _with_first(moved, 1)


def _with_ones(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d1"]:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def _with_first(others: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """All classes, where the first is minus the sum of the others."""
    return torch.cat([-others.sum(dim, keepdim=True), others], dim)


def _logits(w: Float[Tensor, "k c d1"], x: Float[Tensor, "n d1"]) -> Float[Tensor, "n c k"]:
    """Pairs lie innermost: a softmax over a last axis of few classes would take as long as the product."""
    return (x @ w.transpose(0, 1).flatten(0, 1).T).unflatten(1, (w.shape[1], w.shape[0]))


def _gradient(
    moved: Float[Tensor, "k c1 d1"], logits: Float[Tensor, "n c"], x: Float[Tensor, "n d1"],
    target: Float[Tensor, "n c"], weights: Float[Tensor, "k n"], penalty: Float[Tensor, " k"],
) -> Float[Tensor, "k c1 d1"]:  # fmt: skip
    """sum_i w_i (softmax(z_i) - e_y) x_i + 2 lambda (W - W_0), of all classes but the first. logits: at W_0."""
    z = logits[:, :, None] + _with_first(_logits(moved, x), 1)
    slope = weights.T[:, None] * (z.softmax(1) - target[:, :, None])[:, 1:]
    of_loss = (slope.flatten(1).T @ x).unflatten(0, slope.shape[1:]).transpose(0, 1)
    return of_loss + 2 * penalty[:, None, None] * moved

"""HSFM as the paper writes it: one trial at a time, the inner loop in autograd's graph.

Written for clarity, and kept as the oracle of the tests and the yardstick of benchmarks/meta.py. Scoring and the
choice of the hard set use the package's vectorized code, so that only the training differs from `methods.hsfm.train`.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from hsfm.core.metrics import accuracy_by, worst
from hsfm.features.embeddings import Embeddings
from hsfm.heads.draw import draw_per_class
from hsfm.heads.hard_set import rank_in_class
from hsfm.heads.head import Head
from hsfm.methods.hsfm import outer_loop
from hsfm.methods.hsfm.outer_loop import Trial


@dataclass(frozen=True)
class Trained:
    head: Head  # kept
    support: Tensor  # [n d], as edited at the kept epoch
    kept_epoch: int
    outer_loss: list[float]  # mean per epoch
    worst_group: list[float]  # on validation, per epoch


def train(train: Embeddings, val: Embeddings, erm: Head, trial: Trial) -> Trained:
    settings = trial.settings
    rows = draw_per_class(train.y, settings.support_per_class, train.n_classes, Generator().manual_seed(trial.seed))
    support, support_y = train.features[rows].clone().requires_grad_(), train.y[rows]
    head = Head(erm.weight.clone().requires_grad_(), erm.bias.clone().requires_grad_())
    edit = torch.optim.Adam([support], lr=settings.outer_lr)
    adapt_head = torch.optim.Adam([head.weight, head.bias], lr=settings.inner_lr)
    best, best_state, outer_loss, worst_group = -1.0, None, [], []
    for epoch in range(1, settings.epochs + 1):
        with torch.no_grad():
            loss = cross_entropy(head.logits(val.features), val.y, reduction="none")
            hard = rank_in_class(loss, val.y) <= trial.hard_per_class
        losses = []
        for _ in range(settings.support_steps):
            loss, support.grad = meta_gradient(
                head, support, support_y, val.features[hard], val.y[hard],
                steps=settings.inner_steps, lr=settings.inner_lr,
            )  # fmt: skip
            torch.nn.utils.clip_grad_norm_([support], outer_loop.CLIP_NORM)
            edit.step()
            losses.append(loss)
        fixed = support.detach()
        for _ in range(settings.inner_steps):
            adapt_head.zero_grad()
            cross_entropy(head.logits(fixed), support_y).backward()
            adapt_head.step()
        with torch.no_grad():
            correct = head.predict(val.features) == val.y
            score = float(worst(accuracy_by(correct, val.group, val.n_groups)))
        if score >= best:
            kept = Head(head.weight.detach().clone(), head.bias.detach().clone())
            best, best_state = score, (kept, fixed.clone(), epoch)
        outer_loss.append(float(torch.stack(losses).mean()) if losses else float("nan"))
        worst_group.append(score)
    return Trained(*best_state, outer_loss, worst_group)


def adapt(head: Head, features: Tensor, y: Tensor, *, steps: int, lr: float, first_order: bool = False) -> Head:
    """The head after `steps` plain gradient-descent steps on mean cross-entropy, differentiable in `features`.

    first_order: every step's gradient is taken at a head that counts as a constant.
    """
    weight, bias = head.weight, head.bias
    for _ in range(steps):
        at = [t.detach().requires_grad_() for t in (weight, bias)] if first_order else [weight, bias]
        loss = cross_entropy(Head(*at).logits(features), y)
        weight_gradient, bias_gradient = torch.autograd.grad(loss, at, create_graph=True)
        weight, bias = weight - lr * weight_gradient, bias - lr * bias_gradient
    return Head(weight, bias)


def meta_gradient(
    head: Head,
    support: Tensor,
    support_y: Tensor,
    hard: Tensor,
    hard_y: Tensor,
    *,
    steps: int,
    lr: float,
    first_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """Outer loss and its gradient in the support `[n d]`, through all steps of the adaptation."""
    support = support.detach().requires_grad_()
    start = Head(head.weight.detach().requires_grad_(), head.bias.detach().requires_grad_())
    adapted = adapt(start, support, support_y, steps=steps, lr=lr, first_order=first_order)
    loss = cross_entropy(adapted.logits(hard), hard_y)
    (gradient,) = torch.autograd.grad(loss, support)
    return loss.detach(), gradient

"""Trace of one inner loop of HSFM, step by step; meta_gradient.py computes the same without recording it.

Letters: n support rows, d features, c classes, m hard samples, T steps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.heads.head import Head
from hsfm.methods.hsfm.outer_loop import head_gradient


@dataclass(frozen=True)
class InnerLoop:
    """Of the head before each step and after the last, T + 1 values each."""

    support_loss: Float[Tensor, " t"]  # mean cross-entropy on the support, natural log
    hard_loss: Float[Tensor, " t"]  # the same on the hard samples; the last one is the outer loss
    change: Float[Tensor, " t"]  # |W_t - W_0| / |W_0|


def follow(
    head: Head,
    support: Float[Tensor, "n d"],
    support_y: Int[Tensor, " n"],
    hard: Float[Tensor, "m d"],
    hard_y: Int[Tensor, " m"],
    *,
    steps: int,
    lr: float,
) -> InnerLoop:
    """Take `steps` (T) plain gradient steps of size `lr` (alpha) on the support, starting from `head`."""
    weight, bias = head.weight, head.bias
    support_loss, hard_loss, change = [], [], []
    for step in range(steps + 1):
        now = Head(weight, bias)
        support_loss.append(cross_entropy(now.logits(support), support_y))
        hard_loss.append(cross_entropy(now.logits(hard), hard_y))
        change.append((weight - head.weight).norm() / head.weight.norm())
        if step < steps:
            by_weight, by_bias = head_gradient(weight[None], bias[None], support[None], support_y[None])
            weight, bias = weight - lr * by_weight[0], bias - lr * by_bias[0]
    return InnerLoop(*(torch.stack(values) for values in (support_loss, hard_loss, change)))

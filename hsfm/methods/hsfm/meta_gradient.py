"""HSFM's meta-gradient in closed form: no graph, a few matrix products per outer step.

docs/explanation/method.md derives it, with these letters: r trials side by side, n support rows, d features, c classes,
m hard samples; H [n d] support features, Y [n c] their labels, X [m d] hard features, W [c d] and b [c] the head, T
steps of size alpha, s = alpha / n, Z_t the support's logits, P_t their softmax, R_t = P_t - Y, S their sum,
K = H H' + 1, L the outer loss, V and v its gradients in W_T and b_T, A_t that in Z_t, D that in K (' transposes).

Two classes need one column: only the difference z of the two logits matters, its softmax is sigmoid(z), and since the
two rows of the head move by opposite amounts, z moves as above with 2 alpha in place of alpha.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

Weight, Bias, Rows = Float[Tensor, "r k d"], Float[Tensor, "r k"], Float[Tensor, "r n d"]
Labels, Step = Float[Tensor, "r n k"], Float[Tensor, "r 1 1"]
Outer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # L, dL/dW_T and dL/db_T of W_T and b_T
LossAndGradient = tuple[Float[Tensor, " r"], Rows]


def meta_gradient(
    weight: Float[Tensor, "r c d"],
    bias: Float[Tensor, "r c"],
    support: Float[Tensor, "r n d"],
    support_y: Int[Tensor, "r n"],
    hard: Float[Tensor, "r m d"] | Float[Tensor, "m d"],
    hard_y: Int[Tensor, " m"],
    *,
    steps: int,
    lr: Float[Tensor, " r"],
    weights: Float[Tensor, "r m"] | None = None,
    first_order: bool = False,
    form: str = "auto",
) -> LossAndGradient:
    """Outer loss (natural log) of r trials, and its gradient in their support features.

    hard_y: shared by all trials. steps: T, at least 1. lr: alpha of each trial. weights: of the rows of one `hard` that
    all trials share, each trial's summing to 1; else a trial's rows are its own and count alike. first_order: leave out
    how the head of a step depends on the support through earlier ones. form: `dual`, `primal` or `auto`, the one with
    fewer operations.
    """
    n_classes, d = weight.shape[1:]
    n = support.shape[1]
    if n_classes == 2:
        weight, bias = weight[:, 1:] - weight[:, :1], bias[:, 1:] - bias[:, :1]
        labels, hard_labels = support_y.to(support).unsqueeze(-1), hard_y.to(support).unsqueeze(-1)
        rate = 2 * lr
    else:
        labels, hard_labels = (one_hot(y, n_classes).to(support) for y in (support_y, hard_y))
        rate = lr
    step = (rate / n).to(support).view(-1, 1, 1)
    if form == "auto":
        form = cheaper_form(n, d, n_classes, steps)
    solve = {"dual": _dual, "primal": _primal}[form]
    if weights is None:
        outer = partial(_outer, hard=hard, labels=hard_labels)
    else:
        outer = partial(weighted_outer, rows=hard, labels=hard_labels, weights=weights)
    return solve(weight, bias, support, labels, outer, steps, step, first_order)


def cheaper_form(n: int, d: int, n_classes: int, steps: int) -> str:
    """`dual` or `primal`, by the number of multiplications."""
    k = 1 if n_classes == 2 else n_classes
    return "dual" if 2 * n * d + 4 * steps * n * k < 6 * steps * k * d else "primal"


def _dual(
    weight: Weight, bias: Bias, support: Rows, labels: Labels, outer: Outer, steps: int, step: Step, first_order: bool
) -> LossAndGradient:
    kernel = (support @ support.mT + 1) * step  # s K
    logits = torch.baddbmm(bias.unsqueeze(1), support, weight.mT)
    probabilities = []
    for t in range(steps):
        probabilities.append(_softmax(logits))
        if t + 1 < steps:  # Z_T enters nothing
            logits.baddbmm_(kernel, probabilities[-1] - labels, alpha=-1)
    stacked = torch.stack(probabilities)  # [T r n k]
    residuals = stacked - labels
    total = residuals.sum(0) * step  # s S
    adapted = torch.baddbmm(weight, total.mT, support, alpha=-1)
    loss, by_weight, by_bias = outer(adapted, bias - total.sum(1))

    through_sum = torch.baddbmm(by_bias.unsqueeze(1), support, by_weight.mT) * -step
    slope = stacked * (1 - stacked) if stacked.shape[-1] == 1 else None
    sensitivity = torch.zeros_like(through_sum)  # A_{t+1}
    sensitivities = [sensitivity]
    for t in reversed(range(steps)):
        incoming = through_sum if first_order else torch.baddbmm(through_sum, kernel, sensitivity, alpha=-1)
        if slope is not None:
            sensitivity = torch.addcmul(sensitivity, slope[t], incoming)
        else:
            sensitivity = sensitivity + _jacobian(stacked[t], incoming)
        sensitivities.append(sensitivity)
    # A_T is zero and R_{T-1} stands beside it: both drop out of D
    later = torch.cat(sensitivities[1:-1], dim=-1) if steps > 1 else through_sum[..., :0]  # A_{T-1} ... A_1
    earlier = torch.cat(list(residuals[: steps - 1].flip(0)), dim=-1) if steps > 1 else later  # R_{T-2} ... R_0
    by_kernel = (later * -step) @ earlier.mT
    if not first_order:
        by_kernel = by_kernel + by_kernel.mT
    left = torch.cat([by_kernel, sensitivity, -total], dim=-1)
    right = torch.cat([support, weight, by_weight], dim=1)
    return loss, left @ right


def _primal(
    weight: Weight, bias: Bias, support: Rows, labels: Labels, outer: Outer, steps: int, step: Step, first_order: bool
) -> LossAndGradient:
    weights, probabilities, residuals = [], [], []
    for _ in range(steps):
        weights.append(weight)
        probabilities.append(_softmax(torch.baddbmm(bias.unsqueeze(1), support, weight.mT)))
        residuals.append((probabilities[-1] - labels) * step)
        weight = torch.baddbmm(weight, residuals[-1].mT, support, alpha=-1)
        bias = bias - residuals[-1].sum(1)
    loss, by_weight, by_bias = outer(weight, bias)

    left, right = [], []
    for t in reversed(range(steps)):
        left.append(residuals[t])
        right.append(-by_weight)
        incoming = torch.baddbmm(by_bias.unsqueeze(1), support, by_weight.mT) * -step
        sensitivity = _jacobian(probabilities[t], incoming)
        left.append(sensitivity)
        right.append(weights[t])
        if not first_order:
            by_weight = torch.baddbmm(by_weight, sensitivity.mT, support)
            by_bias = by_bias + sensitivity.sum(1)
    return loss, torch.cat(left, dim=-1) @ torch.cat(right, dim=1)


def _outer(
    weight: Weight, bias: Bias, *, hard: Float[Tensor, "r m d"], labels: Float[Tensor, "m k"]
) -> tuple[Float[Tensor, " r"], Weight, Bias]:
    logits = torch.baddbmm(bias.unsqueeze(1), hard, weight.mT)
    if logits.shape[-1] == 1:
        loss = binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none").mean((1, 2))
    else:
        classes = labels.argmax(1).expand(len(logits), -1)
        loss = cross_entropy(logits.mT, classes, reduction="none").mean(1)
    residual = (_softmax(logits) - labels) / len(labels)
    return loss, residual.mT @ hard, residual.sum(1)


def weighted_outer(
    weight: Weight, bias: Bias,
    *, rows: Float[Tensor, "m d"], labels: Float[Tensor, "m k"], weights: Float[Tensor, "r m"],
) -> tuple[Float[Tensor, " r"], Weight, Bias]:  # fmt: skip
    """As `_outer`, over rows that all trials share: two large products instead of 2 r small ones."""
    r, k, d = weight.shape
    logits = (weight.view(r * k, d) @ rows.T).view(r, k, -1) + bias.unsqueeze(-1)  # [r k m]
    targets = labels.T.expand_as(logits)
    if k == 1:
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none").squeeze(1)
        residual = logits.sigmoid() - targets
    else:
        losses = cross_entropy(logits, labels.argmax(1).expand(r, -1), reduction="none")
        residual = logits.softmax(1) - targets
    residual = residual * weights.unsqueeze(1)
    by_weight = (residual.view(r * k, -1) @ rows).view(r, k, d)
    return (losses * weights).sum(1), by_weight, residual.sum(-1)


def _softmax(logits: Float[Tensor, "r n k"]) -> Float[Tensor, "r n k"]:
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def _jacobian(probabilities: Float[Tensor, "r n k"], x: Float[Tensor, "r n k"]) -> Float[Tensor, "r n k"]:
    """J x, row by row: p (1 - p) x for one column, else p (x - <p, x>)."""
    if probabilities.shape[-1] == 1:
        return probabilities * (1 - probabilities) * x
    return probabilities * (x - (probabilities * x).sum(-1, keepdim=True))

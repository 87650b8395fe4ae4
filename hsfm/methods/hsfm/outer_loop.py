"""HSFM's outer loop: many trials side by side, as one more tensor axis.

Letters: r trials, n support rows, d features, c classes, m hard samples, e epochs. Everything that an epoch changes
lies in tensors that it edits in place, and nothing inside waits for the device: on CUDA one epoch is recorded as a
graph and replayed. benchmarks/autograd_loop.py is the same procedure one trial at a time, in autograd.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim.adam import adam

from hsfm.core.cuda_graphs import repeat
from hsfm.core.metrics import accuracy_by, worst
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.hard_set import HardSet, hardest
from hsfm.heads.head import Head
from hsfm.methods.hsfm.meta_gradient import meta_gradient

CLIP_NORM = 10.0


@dataclass(frozen=True)
class Trial:
    """One fit: its seed, and the settings that may differ between trials side by side."""

    seed: int
    inner_lr: float  # alpha
    outer_lr: float  # eta
    clip_norm: float = CLIP_NORM


@dataclass(frozen=True)
class Shared:
    """Settings that trials side by side have in common: those that set the shape or the order of their operations."""

    support_per_class: int
    inner_steps: int  # T
    support_steps: int  # K_H
    hard_per_class: int  # K_hard
    epochs: int
    refresh: str = "epoch"
    outer_set: str = "hard"
    gradient: str = "full"
    support_draw: str = "per_class"


@dataclass(frozen=True)
class BestState:
    """The state of each trial at the epoch that one rule chose."""

    value: Float[Tensor, " r"]  # of the rule's measure, higher is better
    epoch: Int[Tensor, " r"]  # from 1; 0 where every epoch had a loss that is not finite
    weight: Float[Tensor, "r c d"]
    bias: Float[Tensor, "r c"]
    support: Float[Tensor, "r n d"]


class Loop:
    """The paper's Algorithm 1, many trials at once.

    rows [r n]: the support of each trial among the rows of train. outer_rows: the rows of val in the outer loss, by
    epoch, or None to take those that are hardest under the current head, class by class; the first entry serves the
    first epoch in either case. select_by: for each of these rules the state of its best epoch is kept.

    After `train`: `best` by rule, `history` by measure, one value per epoch and trial, and `hard_parts` [e r p], how
    many images of each part of val (`part_of`) the outer loss of each epoch was over.
    """

    def __init__(
        self,
        train: Embeddings,
        val: Embeddings,
        erm: Head,
        trials: Sequence[Trial],
        shared: Shared,
        *,
        rows: Int[Tensor, "r n"],
        outer_rows: Int[Tensor, "_ r m"] | None,
        select_by: Sequence[str],
    ):
        self._val, self._shared, self._outer_rows = val, shared, outer_rows
        self.support = train.features[rows]
        self.support_y = train.y[rows]
        self.weight, self.bias = (t.expand(len(trials), *t.shape).clone() for t in (erm.weight, erm.bias))
        self._edit = Adam([self.support], [trial.outer_lr for trial in trials])
        self._adapt = Adam([self.weight, self.bias], [trial.inner_lr for trial in trials])
        self._inner_lr, self._clip_norm = (
            torch.tensor(
                [getattr(trial, name) for trial in trials], dtype=self.support.dtype, device=self.support.device
            )
            for name in ("inner_lr", "clip_norm")
        )
        self._evaluator = Evaluator(train, val, shared.hard_per_class)
        start = self._evaluator(Head(self.weight, self.bias))
        self._hard_rows = start.hard_rows if outer_rows is None else outer_rows[0].clone()
        self._hard = val.features[self._hard_rows]
        self._hard_y = val.y[self._hard_rows[0]]  # the same for every trial: rows lie class by class

        whole = {"dtype": torch.int64, "device": self.support.device}
        self._epoch = torch.zeros(1, **whole)  # finished ones
        self.best = {
            rule: BestState(
                torch.full_like(start.measures["val_average"], -torch.inf),
                torch.zeros(len(trials), **whole),
                self.weight.clone(),
                self.bias.clone(),
                self.support.clone(),
            )
            for rule in select_by
        }
        names = ("outer_loss", *start.measures, "minority_share", "pool_minority_share")
        empty = start.measures["val_average"].new_empty(shared.epochs, len(trials))
        self.history = {name: empty.clone() for name in names}
        self._part = part_of(val)
        n_parts = val.n_classes * (val.n_attributes + 1)
        self.hard_parts = torch.zeros(
            shared.epochs, len(trials), n_parts, dtype=torch.int32, device=self.support.device
        )

    def train(self, after_epoch: Callable[[], object]) -> None:
        """All epochs; `after_epoch` is called as each is handed to the device."""
        repeat(self._one_epoch, self._shared.epochs, self.support.device, after_epoch)

    def _one_epoch(self) -> None:
        outer_losses = [self._edit_support() for _ in range(self._shared.support_steps)]
        for _ in range(self._shared.inner_steps):
            self._adapt.step(*head_gradient(self.weight, self.bias, self.support, self.support_y))
        scores = self._evaluator(Head(self.weight, self.bias))
        self._record(scores, outer_losses)
        self._epoch += 1
        for rule, best in self.best.items():
            self._update_best(best, scores.value(rule))
        if self._shared.refresh == "epoch":
            self._choose_outer_set(scores)

    def _edit_support(self) -> Float[Tensor, " r"]:
        outer = meta_gradient(
            self.weight, self.bias, self.support, self.support_y, self._hard, self._hard_y,
            steps=self._shared.inner_steps, lr=self._inner_lr, first_order=self._shared.gradient == "first_order",
        )  # fmt: skip
        self._edit.step(clip(outer.support, self._clip_norm))
        return outer.loss

    def _record(self, scores: "Scores", outer_losses: Sequence[Tensor]) -> None:
        unknown = torch.full_like(self._inner_lr, torch.nan)
        minority = self._evaluator.minority
        record = {
            "outer_loss": torch.stack(outer_losses).mean(0) if outer_losses else unknown,
            **scores.measures,
            "minority_share": minority[self._hard_rows].mean(1),
            "pool_minority_share": minority.mean().expand(len(unknown)),
        }
        for name, values in record.items():
            self.history[name].index_copy_(0, self._epoch, values.to(self.history[name]).unsqueeze(0))
        part = self._part[self._hard_rows]
        counts = torch.zeros_like(self.hard_parts[0]).scatter_add_(1, part, torch.ones_like(part, dtype=torch.int32))
        self.hard_parts.index_copy_(0, self._epoch, counts.unsqueeze(0))

    def _update_best(self, best: BestState, value: Float[Tensor, " r"]) -> None:
        better = value >= best.value  # a later tie wins; NaN never does
        state = (value, self._epoch.expand_as(best.epoch), self.weight, self.bias, self.support)
        targets = (best.value, best.epoch, best.weight, best.bias, best.support)
        for new, target in zip(state, targets, strict=True):
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, target, out=target)

    def _choose_outer_set(self, scores: "Scores") -> None:
        """For the next epoch."""
        if self._shared.outer_set == "hard":
            self._hard_rows.copy_(scores.hard_rows)
        else:
            following = self._epoch.clamp(max=self._shared.epochs - 1)
            self._hard_rows.copy_(self._outer_rows.index_select(0, following).squeeze(0))
        torch.index_select(
            self._val.features, 0, self._hard_rows.flatten(), out=self._hard.view(-1, self._hard.shape[-1])
        )


@dataclass(frozen=True)
class Scores:
    hard_rows: Int[Tensor, "r m"]  # the head's hard set
    measures: dict[str, Float[Tensor, " r"]]

    def value(self, rule: str) -> Float[Tensor, " r"]:
        """The value that a rule of `select_by` maximizes."""
        return -self.measures["hard_loss"] if rule == "hard_loss" else self.measures[f"val_{rule}"]


class Evaluator:
    """Scores heads on val and finds their hard sets; what does not change between epochs is prepared once."""

    def __init__(self, train: Embeddings, val: Embeddings, hard_per_class: int):
        self._val, self._hard_per_class = val, hard_per_class
        self.class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
        self._grouped = bool((val.group >= 0).any())
        minority = minority_rows(train, val)
        unknown = torch.full(val.y.shape, torch.nan, dtype=torch.float64, device=val.y.device)
        self.minority = unknown if minority is None else minority.double()

    def __call__(self, head: Head) -> Scores:
        val = self._val
        logits = head.logits(val.features)  # [r n c]
        y = val.y.expand(logits.shape[:-1])
        loss = cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
        correct = logits.argmax(-1) == y
        rows = hardest(loss, self.class_rows, self._hard_per_class)
        groups = accuracy_by(correct, val.group, val.n_groups)
        measures = {
            "hard_loss": loss.gather(1, rows).double().mean(1),
            "val_average": correct.double().mean(1),
            "val_worst_group": worst(groups) if self._grouped else torch.full_like(groups[:, 0], torch.nan),
            "val_worst_class": worst(accuracy_by(correct, val.y, val.n_classes)),
        }
        # a head that is NaN predicts the first class everywhere, which would count as an accuracy
        sound = loss.isfinite().all(1)
        return Scores(rows, {name: values.where(sound, torch.nan) for name, values in measures.items()})


def part_of(val: Embeddings) -> Int[Tensor, " n"]:
    """Class and attribute of each row as one number, class by class; the attributes that are not known come last."""
    return val.y * (val.n_attributes + 1) + torch.where(val.attribute < 0, val.n_attributes, val.attribute)


def chosen_rows(hard_set: HardSet, val: Embeddings) -> Int[Tensor, " m"]:
    """The rows that a hard set chose, class by class."""
    chosen = hard_set.chosen.to(val.y.device).nonzero().squeeze(1)
    return chosen[val.y[chosen].argsort(stable=True)]


class Adam:
    """torch's Adam on tensors `[r ...]` whose trials have learning rates of their own; edits the tensors in place.

    Through torch's functional form: `Optimizer.step` spends as long on bookkeeping as a small step takes.
    """

    def __init__(self, tensors: Sequence[Tensor], rates: Sequence[float]):
        self._together = len(set(rates)) == 1  # trials with one rate are one tensor: fewer, larger operations
        self._rates = rates[:1] if self._together else rates
        self._tensors = self._by_rate(tensors)
        self._first = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._second = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._steps = [[torch.zeros((), device=t.device) for t in tensors] for _ in self._rates]

    def step(self, *gradients: Tensor) -> None:
        for rate, *lists in zip(
            self._rates, self._tensors, self._by_rate(gradients), self._first, self._second, self._steps, strict=True
        ):
            adam(
                *lists[:-1], max_exp_avg_sqs=[], state_steps=lists[-1], fused=True, amsgrad=False,
                lr=rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, maximize=False,
            )  # fmt: skip

    def _by_rate(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """For every rate the parts of all tensors that it moves; they share the tensors' memory."""
        if self._together:
            return [list(tensors)]
        return [list(parts) for parts in zip(*(t.unbind() for t in tensors), strict=True)]


def head_gradient(
    weight: Float[Tensor, "r c d"], bias: Float[Tensor, "r c"], support: Float[Tensor, "r n d"], y: Int[Tensor, "r n"]
) -> tuple[Float[Tensor, "r c d"], Float[Tensor, "r c"]]:
    """Of the mean cross-entropy on the support, in weight and bias."""
    probabilities = torch.baddbmm(bias.unsqueeze(1), support, weight.mT).softmax(-1)
    residual = (probabilities - one_hot(y, weight.shape[1])) / y.shape[1]
    return residual.mT @ support, residual.sum(1)


def clip(gradient: Float[Tensor, "r n d"], norm: Float[Tensor, " r"]) -> Float[Tensor, "r n d"]:
    """Each trial's gradient scaled to at most its norm, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = (norm / (gradient.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1)
    # On the CPU one may look, and save two passes over the gradient; elsewhere looking would wait for the device.
    if gradient.device.type == "cpu" and bool((factor == 1).all()):
        return gradient
    return gradient * factor.view(-1, 1, 1)

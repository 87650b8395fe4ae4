"""HSFM's outer loop: many trials side by side, as one more tensor axis.

Letters: r trials, n support rows, d features, c classes, m hard samples, e epochs. Everything that an epoch changes
lies in tensors that it edits in place, and nothing inside waits for the device: on CUDA one epoch is recorded as a
graph and replayed. On the CPU a training of two classes is compiled, where numba is at hand; torch does all others.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim.adam import adam

from hsfm.core.cuda_graphs import repeat
from hsfm.features.embeddings import Embeddings
from hsfm.heads.draw import PerClass
from hsfm.heads.hard_set import hardest
from hsfm.heads.hard_training import HardTrainingSettings, swept
from hsfm.heads.head import Head
from hsfm.methods.hsfm.compiled import CompiledEpoch
from hsfm.methods.hsfm.meta_gradient import cheaper_form, meta_gradient

log = logging.getLogger(__name__)

# a trial's settings that may differ between trials side by side; all others set the shape or order of operations
OF_TRIAL = ("inner_lr", "outer_lr")
# ASSUME: edits up to this cost no held-out accuracy on validation of five sets of photographs, up to 2 they cost
# two points on one; without a bound they grow to 10 and more
MAX_EDIT = 3.0
CLIP_NORM = 10.0  # longest meta-gradient of a support, as in the authors' code


class Settings(HardTrainingSettings):
    """HSFM's settings; the paper's symbols stand in the descriptions."""

    support_per_class: PositiveInt = swept(64, [8, 16, 32, 64, 128], "Support rows drawn per class, or all it has.")
    outer_lr: PositiveFloat = swept(1.0, [0.01, 0.1, 0.3, 1.0, 3.0], "eta: step size of Adam on the support.")
    support_steps: NonNegativeInt = swept(
        10, [2, 5, 10], "K_H: meta-gradient steps on the support per epoch; 0 leaves the support as drawn."
    )
    outer_set: Literal["hard", "random", "inferred"] = Field(
        "hard",
        description="Outer loss over hard validation rows (the paper), as many random ones per class, or as many that "
        "stay, half of a class with the attribute that goes with it and half with another, both inferred from features "
        "and classes; hard ones where nothing can be inferred.",
    )
    gradient: Literal["full", "first_order"] = Field(
        "full", description="The meta-gradient through all inner steps (the paper), or its first-order part."
    )
    support_draw: Literal["per_class", "uniform"] = Field(
        "per_class", description="The support drawn per class (the paper), or that number in all, uniform over train."
    )
    max_edit: PositiveFloat | None = Field(
        None,
        description="Longest edit of a support row, as a multiple of the distance of training images from their "
        f"class's mean (root mean square); null for any. Where it is not given: {MAX_EDIT:g} with tune, else null.",
    )

    @model_validator(mode="before")
    @classmethod
    def _bounded_where_tuned(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "max_edit" in values:
            return values
        tuned = values.get("tune", not cls.fixes(values)) not in (None, False)
        return {**values, "max_edit": MAX_EDIT if tuned else None}


# changes of the settings that take away one part of the method each
ABLATIONS: dict[str, dict[str, Any]] = {
    "fixed_support": {"support_steps": 0},
    "random_outer_set": {"outer_set": "random"},
    "hard_set_once": {"refresh": "never"},
    "first_order": {"gradient": "first_order"},
    "unbalanced_support": {"support_draw": "uniform"},
    "unbounded_edits": {"max_edit": None},
}


def symbols(settings: Settings) -> dict[str, Any]:
    """Values by the paper's symbols, which descriptions begin with: T, alpha, eta, K_H."""
    found = {name: field.description.partition(": ") for name, field in Settings.model_fields.items()}
    return {symbol: getattr(settings, name) for name, (symbol, _, text) in found.items() if text and " " not in symbol}


@dataclass(frozen=True)
class Trial:
    """One fit: its seed and settings."""

    seed: int
    settings: Settings
    hard_per_class: PerClass  # K_hard, hard samples per class

    @property
    def shape(self) -> tuple:
        """Settings that trials side by side have in common."""
        values = {name: value for name, value in self.settings if name not in (*OF_TRIAL, "select_by", "tune")}
        return self.hard_per_class, *values.values()


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

    trials: of one shape. rows: the support of each trial among the rows of train. outer_rows: the rows of val in the
    outer loss, by epoch, or None to take those that are hardest under the current head; the first entry serves the
    first epoch in either case. weighted: take the outer loss over all of val with weights, the faster way where most
    rows are hard; its sums round otherwise. taught: rows of val that a trial may learn from, all by default.
    keep_from: the first epoch that may be `best`.
    `engine` says what trains: `compiled`, or torch and why. After `train`: `best` by scorer, `history` `[e r]` by
    measure, and `hard_rows` `[e r m]`, the rows of val that the outer loss of each epoch was over; or where `taught` is
    given `classes` `[r v]`, the predictions for val after the last epoch.
    """

    def __init__(
        self, train: Embeddings, val: Embeddings, erm: Head, trials: Sequence[Trial],
        *, rows: Int[Tensor, "r n"], outer_rows: Int[Tensor, "_ r m"] | None, scorers: Mapping[str, Any],
        weighted: bool = False, taught: Bool[Tensor, "r v"] | None = None, keep_from: int = 1,
    ):  # fmt: skip
        self._val, self._outer_rows, self._scorers = val, outer_rows, scorers
        self._weighted, self._taught, self._keep_from = weighted, taught, keep_from
        self._settings = trials[0].settings  # but for OF_TRIAL
        self.support = train.features[rows]
        self.support_y = train.y[rows]
        self._drawn, self._longest = self.support.clone(), None
        if self._settings.max_edit is not None:
            self._longest = self._settings.max_edit * class_radius(train)
        self.weight, self.bias = (t.expand(len(trials), *t.shape).clone() for t in (erm.weight, erm.bias))
        inner_lr, outer_lr = ([getattr(trial.settings, name) for trial in trials] for name in OF_TRIAL)
        self._form = cheaper_form(*self.support.shape[1:], val.n_classes, self._settings.inner_steps)
        self._hard_per_class, self._measure = trials[0].hard_per_class, None
        if scorers:
            self._measure = next(iter(scorers.values())).measures
        self._class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
        if taught is not None:
            self.classes = val.y.repeat(len(trials), 1)
        hard_rows, measures = self._evaluate()
        self._hard_rows = hard_rows if outer_rows is None else outer_rows[0].clone()
        of_class = torch.bincount(val.y[self._hard_rows[0]], minlength=val.n_classes).to(self.support)
        self._weight_of_class = 1 / (of_class * val.n_classes if weighted else of_class.sum().expand_as(of_class))
        self._compiled, self.engine = self._compile(inner_lr, outer_lr)
        if self._compiled is None:
            self._prepare_torch(inner_lr, outer_lr, weighted)

        whole = {"dtype": torch.int64, "device": self.support.device}
        self._epoch = torch.zeros(1, **whole)  # finished ones
        value, epoch = torch.full_like(measures["hard_loss"], -torch.inf), torch.zeros(len(trials), **whole)
        state = value, epoch, self.weight, self.bias, self.support
        self.best = {name: BestState(*(tensor.clone() for tensor in state)) for name in scorers}
        epochs = self._settings.epochs
        self.history = {name: value.new_empty(epochs, len(trials)) for name in ("outer_loss", *measures)}
        if taught is None:
            self.hard_rows = self._hard_rows.new_empty(epochs, *self._hard_rows.shape, dtype=torch.int32)

    def train(self, after_epoch: Callable[[], object] = lambda: None, epochs: int | None = None) -> None:
        """All epochs, or the next few; `after_epoch` is called as each is handed to the device."""
        repeat(self._one_epoch, self._settings.epochs if epochs is None else epochs, self.support.device, after_epoch)

    def _one_epoch(self) -> None:
        outer_loss = self._by_torch() if self._compiled is None else self._compiled(self._hard_rows)
        hard_rows, measures = self._evaluate()
        measures["outer_loss"] = outer_loss
        for name, values in measures.items():
            self.history[name].index_copy_(0, self._epoch, values.to(self.history[name]).unsqueeze(0))
        if self._taught is None:
            self.hard_rows.index_copy_(0, self._epoch, self._hard_rows.to(torch.int32).unsqueeze(0))
        self._epoch += 1
        for name, best in self.best.items():
            self._update_best(best, self._scorers[name].choose(measures))
        if self._settings.refresh == "epoch":
            if self._settings.outer_set == "random":
                following = self._epoch.clamp(max=self._settings.epochs - 1)
                hard_rows = self._outer_rows.index_select(0, following).squeeze(0)
            self._hard_rows.copy_(hard_rows)
            if self._compiled is None:
                self._gather_hard()

    def _compile(self, inner_lr: list[float], outer_lr: list[float]) -> tuple[CompiledEpoch | None, str]:
        """The compiled epoch where there is one, and what trains, in words for the record."""
        settings, n_classes = self._settings, self.weight.shape[1]
        if self.support.device.type != "cpu":
            return None, f"torch (on {self.support.device.type})"
        if n_classes != 2:
            return None, f"torch ({n_classes} classes)"
        try:
            compiled = CompiledEpoch(
                self.support, self.support_y, self.weight, self.bias, self._val.features, self._val.y,
                row_weights=self._weight_of_class, inner_lr=inner_lr, outer_lr=outer_lr,
                inner_steps=settings.inner_steps, support_steps=settings.support_steps,
                clip_norm=CLIP_NORM, longest=self._longest,
                first_order=settings.gradient == "first_order", form=self._form,
            )  # fmt: skip
        except Exception as error:  # of numba, LLVM or the disk
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _warn(reason)
            return None, f"torch ({reason})"
        return compiled, "compiled"

    def _prepare_torch(self, inner_lr: list[float], outer_lr: list[float], weighted: bool) -> None:
        """Optimizers, and the outer loss's rows or weights, which compiled code reads where they are."""
        self._edit, self._adapt = Adam([self.support], outer_lr), Adam([self.weight, self.bias], inner_lr)
        self._inner_lr, val = self.support.new_tensor(inner_lr), self._val
        if weighted:
            self._hard, self._hard_y = val.features, val.y
            self._row_weights = self.support.new_empty(len(inner_lr), len(val.y))
            self._gather_hard()
        else:
            self._hard, self._row_weights = val.features[self._hard_rows], None
            self._hard_y = val.y[self._hard_rows[0]]  # the same for every trial: rows lie class by class

    def _by_torch(self) -> Float[Tensor, " r"]:
        """One epoch's steps of support and heads; the mean outer loss, NaN without any."""
        outer_losses = [self._edit_support() for _ in range(self._settings.support_steps)]
        for _ in range(self._settings.inner_steps):
            self._adapt.step(*head_gradient(self.weight, self.bias, self.support, self.support_y))
        return torch.stack(outer_losses).mean(0) if outer_losses else torch.full_like(self._inner_lr, torch.nan)

    def _gather_hard(self) -> None:
        """Bring the hard rows' features, or weights, in step with their numbers."""
        if self._weighted:
            weights = self._weight_of_class[self._val.y[self._hard_rows]]
            self._row_weights.zero_().scatter_(1, self._hard_rows, weights)
        else:
            flat = self._hard.view(-1, self._hard.shape[-1])
            torch.index_select(self._val.features, 0, self._hard_rows.flatten(), out=flat)

    def _edit_support(self) -> Float[Tensor, " r"]:
        loss, gradient = meta_gradient(
            self.weight, self.bias, self.support, self.support_y, self._hard, self._hard_y,
            steps=self._settings.inner_steps, lr=self._inner_lr, weights=self._row_weights,
            first_order=self._settings.gradient == "first_order", form=self._form,
        )  # fmt: skip
        self._edit.step(clip(gradient, CLIP_NORM))
        if self._longest is not None:
            edit = self.support - self._drawn
            length = edit.norm(dim=-1, keepdim=True)
            torch.where(
                length > self._longest, self._drawn + edit * (self._longest / length), self.support, out=self.support
            )
        return loss

    def _evaluate(self) -> tuple[Int[Tensor, "r m"], dict[str, Float[Tensor, " r"]]]:
        """The heads' hard sets on val, and their measures."""
        logits = Head(self.weight, self.bias).logits(self._val.features)  # [r n c]
        y = self._val.y.expand(logits.shape[:-1])
        loss = cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
        if self._taught is None:
            rows = hardest(loss, self._class_rows, self._hard_per_class)
        else:
            self.classes.copy_(logits.argmax(-1))
            rows = hardest(loss.where(self._taught, -torch.inf), self._class_rows, self._hard_per_class)
        measures = {"hard_loss": loss.gather(1, rows).double().mean(1)}
        if self._measure is not None:
            measures |= self._measure(logits)
        # a head that is NaN predicts the first class everywhere, which would count as an accuracy
        sound = loss.isfinite().all(1)
        return rows, {name: values.where(sound, torch.nan) for name, values in measures.items()}

    def _update_best(self, best: BestState, value: Float[Tensor, " r"]) -> None:
        better = (value >= best.value) & (self._epoch >= self._keep_from)  # a later tie wins; NaN never does
        state = (value, self._epoch.expand_as(best.epoch), self.weight, self.bias, self.support)
        for new, target in zip(state, vars(best).values(), strict=True):
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, target, out=target)


@functools.cache  # once per process
def _warn(reason: str) -> None:
    log.warning("HSFM trains without compiled code, which takes a few times longer: %s", reason)


class Adam:
    """torch's Adam on tensors `[r ...]` whose trials have learning rates of their own; edits the tensors in place."""

    def __init__(self, tensors: Sequence[Tensor], rates: Sequence[float]):
        self._together = len(set(rates)) == 1  # trials with one rate are one tensor: fewer, larger operations
        self._rates = rates[:1] if self._together else rates
        self._tensors = self._by_rate(tensors)
        self._first = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._second = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._steps = [[torch.zeros((), device=t.device) for t in tensors] for _ in self._rates]

    def step(self, *gradients: Tensor) -> None:
        # torch's functional form: `Optimizer.step` spends as long on bookkeeping as a small step takes
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


def class_radius(train: Embeddings) -> float:
    """Root mean square distance of images from the mean of their class.

    By sum |x|^2 - sum_c n_c |m_c|^2, in float64, a block of rows at a time.
    """
    counts = torch.bincount(train.y, minlength=train.n_classes).double()
    sums = torch.zeros(train.n_classes, train.features.shape[1], dtype=torch.float64, device=train.y.device)
    squares = torch.zeros((), dtype=torch.float64, device=train.y.device)
    for rows, y in zip(train.features.split(4096), train.y.split(4096), strict=True):
        sums.index_add_(0, y, rows.double())
        squares += rows.double().square().sum()
    within = squares - (sums.square().sum(1) / counts.clamp(min=1)).sum()
    return float((within / len(train.y)).clamp(min=0).sqrt())


def head_gradient(
    weight: Float[Tensor, "r c d"], bias: Float[Tensor, "r c"], support: Float[Tensor, "r n d"], y: Int[Tensor, "r n"]
) -> tuple[Float[Tensor, "r c d"], Float[Tensor, "r c"]]:
    """Of the mean cross-entropy on the support, in weight and bias."""
    probabilities = torch.baddbmm(bias.unsqueeze(1), support, weight.mT).softmax(-1)
    residual = (probabilities - one_hot(y, weight.shape[1])) / y.shape[1]
    return residual.mT @ support, residual.sum(1)


def clip(gradient: Float[Tensor, "r n d"], norm: float) -> Float[Tensor, "r n d"]:
    """Each trial's gradient scaled to at most a norm, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = (norm / (gradient.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1)
    return gradient * factor.view(-1, 1, 1)


def follow(
    head: Head,
    support: Float[Tensor, "n d"],
    support_y: Int[Tensor, " n"],
    hard: Float[Tensor, "m d"],
    hard_y: Int[Tensor, " m"],
    *,
    steps: int,
    lr: float,
) -> dict[str, Any]:
    """Trace of one inner loop, T plain gradient steps of size alpha from a head on, which `meta_gradient` goes through.

    support_loss and change (|W_t - W_0| / |W_0|) are lists of T + 1 numbers; outer_loss is that of the last head.
    Losses are mean cross-entropies, natural log.
    """
    now, support_loss, change = head, [], []
    for step in range(steps + 1):
        if step > 0:
            by_weight, by_bias = head_gradient(now.weight[None], now.bias[None], support[None], support_y[None])
            now = Head(now.weight - lr * by_weight[0], now.bias - lr * by_bias[0])
        support_loss.append(float(cross_entropy(now.logits(support), support_y)))
        change.append(float((now.weight - head.weight).norm() / head.weight.norm()))
    outer_loss = float(cross_entropy(now.logits(hard), hard_y))
    return {"support_loss": support_loss, "change": change, "outer_loss": outer_loss}

"""Tune: ERM's head trained by Adam on the rows of HSFM's outer loss, with no support in between.

The control of HSFM's bilevel part: the same hard rows, epochs, steps and rates of the head, chosen in the same way.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from hsfm.core.progress import track
from hsfm.core.text import kept_epochs
from hsfm.features.embeddings import Embeddings
from hsfm.heads.draw import PerClass
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSet, hardest
from hsfm.heads.hard_training import HardTrainingSettings
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.tuning import Half, choose

LABEL = "Tune"
SOURCE = "the control of HSFM's bilevel part"
COLOR = "#CC4444"
MARKER = "p"
LIKE = "hsfm"
NEEDS = ("hard_set",)
TABLES = ("history", "tried")


class Settings(HardTrainingSettings):
    """HSFM's, as far as they are of the head's training."""


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, hard_set: HardSet,
) -> Fit:  # fmt: skip
    """The head `[1 c d]` of the kept epoch; nothing is drawn for it, so that it is under the first seed.

    With `settings.tune` settings and epoch are chosen on held-out halves, as HSFM's; of train only the spread of the
    features is used. hard_set: of val under `erm`, the rows of the first epoch, whose `per_class` is K_hard where
    nothing is tuned. The tables history and tried have the columns of HSFM's; outer_loss is the mean over the epoch's
    steps, natural log. Raises ValueError where every epoch diverged, and as `hsfm.heads.tuning.choose`.
    """
    val.refuse_test(LABEL)
    choice, device = None, val.y.device
    if settings.tune is not None:
        choice = choose(
            train, val, settings=settings, scorer=scorer, called=LABEL,
            start=lambda *batch: HalvesTraining(val, erm, *batch).advance,
        )  # fmt: skip
        settings = choice.settings
        hard_set = choice.outer_set(hard_set)
    per_class = hard_set.per_class if choice is None else choice.hard_per_class
    rule, keep_from = settings.rule(scorer), 1 if choice is None else choice.keep_from
    class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
    rows = hard_set.chosen.to(device).nonzero().squeeze(1)
    counts = torch.bincount(val.y[rows], minlength=val.n_classes)
    weights = None if choice is None else (1 / counts).to(val.features)  # classes count alike
    head = Head(erm.weight.clone().requires_grad_(), erm.bias.clone().requires_grad_())
    optimizer = torch.optim.Adam([head.weight, head.bias], lr=settings.inner_lr)
    best, kept, measured = -torch.inf, (erm, 0), []
    for epoch in track(range(1, settings.epochs + 1), LABEL, "epoch"):
        outer_losses = []
        for _ in range(settings.inner_steps):
            optimizer.zero_grad()
            outer_losses.append(cross_entropy(head.logits(val.features[rows]), val.y[rows], weights))
            outer_losses[-1].backward()
            optimizer.step()
        now = Head(head.weight.detach().clone(), head.bias.detach().clone())
        loss = cross_entropy(now.logits(val.features), val.y, reduction="none")
        hard = hardest(loss[None], class_rows, per_class)[0]
        measures = {"hard_loss": loss[hard].double().mean(), **scorer.measures(now.logits(val.features))}
        outer_loss = torch.stack(outer_losses).detach().mean()
        numbers = {name: float(value) for name, value in {"outer_loss": outer_loss, **measures}.items()}
        measured.append({"seed": seeds[0], "epoch": epoch, **numbers})
        value = float(rule.choose(measures))
        if epoch >= keep_from and loss.isfinite().all() and value >= best:  # a later tie wins, as in HSFM
            best, kept = value, (now, epoch)
        if settings.refresh == "epoch":
            rows = hard
    chosen, epoch = kept
    if epoch == 0:
        raise ValueError(f"{LABEL}: inner_lr {settings.inner_lr} diverged, no epoch has a finite loss; lower it")
    history = pd.DataFrame(measured).assign(kept=lambda table: table["epoch"] == epoch)
    found, chosen_by, summary, remarks = {}, settings.epoch_in_words(scorer), kept_epochs(history), ()
    if choice is not None:
        taught = [float(scorer(chosen.logits(val.features)))]
        found, chosen_by, summary = choice.found(taught), choice.in_words(scorer), choice.remark(taught, scorer)
        remarks = choice.remarks(taught, scorer)
        choice.warn(LABEL, taught)
    return Fit(
        head=Head(chosen.weight[None].cpu(), chosen.bias[None].cpu()),
        seeds=tuple(seeds[:1]),
        chosen_by=chosen_by,
        summary=summary,
        remarks=remarks,
        settings={"hard_per_class": hard_set.per_class, "kept_epoch": epoch, **found},
        tables={"history": history, "tried": pd.DataFrame() if choice is None else choice.table},
        held_out=None if choice is None else choice.held_out.classes,
    )


class HalvesTraining:
    """Points of a grid on halves of validation, side by side, whose `advance` is a `hsfm.heads.tuning.Advance`."""

    def __init__(
        self, val: Embeddings, erm: Head, points: Sequence[Settings], hard_per_class: PerClass, halves: Sequence[Half]
    ):
        self._val, self._settings, self._hard_per_class = val, points[0], hard_per_class
        self._shape = len(halves), len(points)
        self._class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
        self._taught = torch.stack([half.taught for half in halves]).repeat_interleave(len(points), 0)
        r, like = len(halves) * len(points), erm.weight
        self._erm, self._rates = erm, like.new_tensor([point.inner_lr for point in points]).repeat(len(halves))
        # Adam moves by its rate times what it makes of the gradients: the heads are ERM's plus their rates times these
        self._moves = [like.new_zeros(r, *part.shape).requires_grad_() for part in (erm.weight, erm.bias)]
        self._optimizer = torch.optim.Adam(self._moves, lr=1.0)
        self._target = one_hot(val.y, val.n_classes).to(like)
        self._choose_rows(self._losses(self._heads()))

    @torch.no_grad()
    def advance(self, epochs: int) -> tuple[Int[Tensor, "e h p n"], Bool[Tensor, "e h p"]]:
        classes, sound = [], []
        for _ in range(epochs):
            for _ in range(self._settings.inner_steps):
                slope = self._heads().logits(self._val.features).softmax(-1) - self._target
                slope = slope * self._weights.unsqueeze(-1)  # [r n c]
                self._moves[0].grad = (slope.movedim(1, 2).flatten(0, 1) @ self._val.features).view_as(self._moves[0])
                self._moves[1].grad = slope.sum(1)
                self._optimizer.step()
            now = self._heads()
            losses = self._losses(now)
            classes.append(now.predict(self._val.features))
            sound.append(losses.isfinite().all(1))
            if self._settings.refresh == "epoch":
                self._choose_rows(losses)
        return torch.stack(classes).view(epochs, *self._shape, -1), torch.stack(sound).view(epochs, *self._shape)

    def _heads(self) -> Head:
        weight, bias = (move.detach() for move in self._moves)
        rates = self._rates
        return Head(self._erm.weight + rates[:, None, None] * weight, self._erm.bias + rates[:, None] * bias)

    def _losses(self, heads: Head) -> Float[Tensor, "r n"]:
        logits = heads.logits(self._val.features)
        return cross_entropy(logits.mT, self._val.y.expand(logits.shape[:-1]), reduction="none")

    def _choose_rows(self, losses: Float[Tensor, "r n"]) -> None:
        rows = hardest(losses.where(self._taught, -torch.inf), self._class_rows, self._hard_per_class)
        y = self._val.y[rows]
        weights = 1 / torch.bincount(y[0]).to(losses)[y] / self._val.n_classes
        self._weights = torch.zeros_like(losses).scatter_(1, rows, weights)

"""Tune: ERM's head trained by Adam on the rows of HSFM's outer loss, with no support in between.

The control of HSFM's bilevel part: the same hard rows, epochs, steps and rate of the head, and the same rule.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from hsfm.core.progress import track
from hsfm.core.text import kept_epochs
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSet, hardest
from hsfm.heads.hard_training import HardTrainingSettings
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer

LABEL = "Tune"
SOURCE = "the control of HSFM's bilevel part"
COLOR = "#CC4444"
MARKER = "p"
LIKE = "hsfm"
NEEDS = ("hard_set",)
TABLES = ("history",)


class Settings(HardTrainingSettings):
    """HSFM's, as far as they are of the head's training."""


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, hard_set: HardSet,
) -> Fit:  # fmt: skip
    """The head `[1 c d]` of the kept epoch; nothing is drawn, so that it is under the first seed. train is not used.

    hard_set: of val under `erm`, the rows of the first epoch, whose `per_class` is K_hard. The history has the columns
    of HSFM's; outer_loss is the mean over the epoch's steps, natural log. Raises ValueError where every epoch diverged.
    """
    val.refuse_test(LABEL)
    rule, device = settings.rule(scorer), val.y.device
    class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
    rows = hard_set.chosen.to(device).nonzero().squeeze(1)
    head = Head(erm.weight.clone().requires_grad_(), erm.bias.clone().requires_grad_())
    optimizer = torch.optim.Adam([head.weight, head.bias], lr=settings.inner_lr)
    best, kept, measured = -torch.inf, (erm, 0), []
    for epoch in track(range(1, settings.epochs + 1), LABEL, "epoch"):
        outer_losses = []
        for _ in range(settings.inner_steps):
            optimizer.zero_grad()
            outer_losses.append(cross_entropy(head.logits(val.features[rows]), val.y[rows]))
            outer_losses[-1].backward()
            optimizer.step()
        now = Head(head.weight.detach().clone(), head.bias.detach().clone())
        loss = cross_entropy(now.logits(val.features), val.y, reduction="none")
        hard = hardest(loss[None], class_rows, hard_set.per_class)[0]
        measures = {"hard_loss": loss[hard].double().mean(), **scorer.measures(now.logits(val.features))}
        outer_loss = torch.stack(outer_losses).detach().mean()
        numbers = {name: float(value) for name, value in {"outer_loss": outer_loss, **measures}.items()}
        measured.append({"seed": seeds[0], "epoch": epoch, **numbers})
        value = float(rule.choose(measures))
        if loss.isfinite().all() and value >= best:  # a later tie wins, as in HSFM
            best, kept = value, (now, epoch)
        if settings.refresh == "epoch":
            rows = hard
    chosen, epoch = kept
    if epoch == 0:
        raise ValueError(f"{LABEL}: inner_lr {settings.inner_lr} diverged, no epoch has a finite loss; lower it")
    history = pd.DataFrame(measured).assign(kept=lambda table: table["epoch"] == epoch)
    return Fit(
        head=Head(chosen.weight[None].cpu(), chosen.bias[None].cpu()),
        seeds=tuple(seeds[:1]),
        chosen_by=settings.epoch_in_words(scorer),
        summary=kept_epochs(history),
        settings={"hard_per_class": hard_set.per_class, "kept_epoch": epoch},
        tables={"history": history},
    )

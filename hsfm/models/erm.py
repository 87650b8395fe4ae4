"""Empirical risk minimization: train a whole network with cross-entropy; resumable.

The loss is that of the training images, or of these and auxiliary sets, each with a weight of its own.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from hsfm.core.device import Compute
from hsfm.core.files import read_leftover, write_safetensors
from hsfm.core.metrics import accuracy_by, worst
from hsfm.core.progress import Progress
from hsfm.core.settings import FrozenSettings
from hsfm.data.pixels import ImageFiles, Images, image_batches, keep_on_device
from hsfm.data.table import ImageTable
from hsfm.data.transforms import AugmentationSettings, TransformSettings, Views, apply, draw_views, prepare
from hsfm.models.backbone import Network
from hsfm.models.distributed import Processes, Share
from hsfm.models.optimizer_state import as_tensors, load_tensors

log = logging.getLogger(__name__)

# which epoch's weights are kept: the last one's, or those of the best of a column of the history
CHECKPOINTS = {
    "last": None,
    "best_val": "val_average",
    "best_worst_group": "val_worst_group",
    "best_worst_class": "val_worst_class",
}


# Settings -------------------------------------------------------------------------------------------------------------


class _EpochSettings(FrozenSettings):
    """Settings that all optimizers share."""

    epochs: PositiveInt = Field(description="Passes over the training split.")
    batch_size: int = Field(ge=2, description="Images per step.")
    lr: PositiveFloat = Field(description="Learning rate; its peak under one_cycle.")


class TrainingSettings(_EpochSettings):
    """SGD on mean cross-entropy over the training split."""

    momentum: float = Field(ge=0, lt=1, description="Of SGD.")
    nesterov: bool = Field(description="Nesterov's form of momentum.")
    weight_decay: float = Field(ge=0, description="L2 penalty on all weights.")
    schedule: Literal["constant", "one_cycle"] = Field(
        description="Learning rate over time: constant; cosine to 0 over all steps; one_cycle up to lr and down again."
    )
    warmup: float = Field(gt=0, lt=1, description="Share of the steps on which one_cycle rises.")
    checkpoint: Literal["last", "best_val"] = Field(
        description="Weights to keep: the last epoch's, or those of the first epoch with the best validation average."
    )
    holdout: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the training images that AFR's network, another than ERM's, is not trained on.",
    )

    @model_validator(mode="after")
    def _check_nesterov(self) -> "TrainingSettings":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true, which needs a momentum above 0")
        return self


class AdamSettings(_EpochSettings):
    """Adam at a constant rate, for methods that train a network further."""

    checkpoint: Literal["last", "best_val", "best_worst_group", "best_worst_class"] = Field(
        description="Weights to keep: the last epoch's, or those of the epoch with the best validation average or "
        "lowest accuracy of a group or class, the higher average on a tie."
    )


# Data -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabeledImages:
    pixels: Images | ImageFiles
    y: Int[Tensor, " n"]
    group: Int[Tensor, " n"]  # -1 where unknown; recorded in the history, never trained on

    @staticmethod
    def of(
        table: ImageTable,
        source: Callable[[pd.DataFrame], Images | ImageFiles],
        split: str,
        *,
        without: Int[Tensor, " k"] | None = None,
    ) -> "LabeledImages":
        """Those of one split. source: gives the images of some of the table's rows. without: places in the split of
        images that are left out."""
        rows = table.split(split)
        if without is not None:
            rows = rows.drop(rows.index[without.numpy()])
        y, group = (torch.tensor(rows[name].fillna(-1).astype("int64").to_numpy()) for name in ("y", "group"))
        return LabeledImages(source(rows), y, group)


@dataclass(frozen=True)
class AuxiliaryData:
    """Further images whose mean loss is added in every step, as many at a time as training images, over and over."""

    name: str
    images: LabeledImages
    weight: float  # of their loss; that of the training images has 1


@dataclass(frozen=True)
class TrainingData:
    """Images to learn from and to judge epochs by, and what the network sees of them."""

    training: LabeledImages
    validation: LabeledImages
    transform: TransformSettings
    augmentation: AugmentationSettings  # of training and auxiliary images
    auxiliary: Sequence[AuxiliaryData] = ()

    def check(self, checkpoint: str, processes: Processes) -> None:
        """Raise ValueError where these images do not allow what they are to be used for."""
        if checkpoint == "best_worst_group" and (self.validation.group < 0).any():
            raise ValueError(
                "checkpoint: best_worst_group needs the group of every validation image, and some have none"
            )
        for images in (self.training, *(part.images for part in self.auxiliary)):
            if images.pixels.size_on_cpu is None:
                raise ValueError(
                    "training images: height and width of some are not known; the image table has to say them"
                )
        if self.auxiliary and not processes.alone:
            raise ValueError(
                f"auxiliary: {len(self.auxiliary)} sets of images, which {processes.count} processes cannot share out"
            )

    def kept_on_device(self, compute: Compute) -> "TrainingData":
        """The same; images that fit lie on the device."""
        sets = [self.training, self.validation, *(part.images for part in self.auxiliary)]
        kept = keep_on_device([images.pixels for images in sets], compute)
        training, validation, *others = (replace(s, pixels=pixels) for s, pixels in zip(sets, kept, strict=True))
        auxiliary = [replace(part, images=images) for part, images in zip(self.auxiliary, others, strict=True)]
        return replace(self, training=training, validation=validation, auxiliary=auxiliary)


# Training -------------------------------------------------------------------------------------------------------------


def train(
    network: Network,
    data: TrainingData,
    settings: TrainingSettings | AdamSettings,
    *,
    seed: int,
    compute: Compute,
    resume: Path | None = None,
    called: str = "ERM",
) -> pd.DataFrame:
    """Train `network` in place on mean cross-entropy; returns the history, one row per epoch.

    data: auxiliary images have a loss of their own; they pass through the network in one batch with the training
    images, so that BatchNorm sees them together. seed: of the order of the images and of the augmentation. compute:
    device, precision and what else changes rounding alone. resume: a file that holds the state after every epoch; a
    process that finds it goes on from there and, on the CPU with equal threads or on CUDA with `deterministic`, ends
    with the weights of an undisturbed one. The caller names it after everything the result depends on, and removes it
    when done. called: the method, where progress is shown.

    Where torch.distributed joins processes, each calls this with the same arguments but for its device: they train one
    network on batches of `batch_size` images in all, and each ends with it and with the history of all. The file
    `resume` is written by the first and read by every one of them.

    History columns: epoch (from 1), lr (of the epoch's last step), train_loss, train_accuracy (of the augmented
    training images, before each step), loss_NAME (mean, of the auxiliary images), val_loss, val_average,
    val_worst_group (NaN where no group is known), val_worst_class, and kept, true for the epoch whose weights the
    network ends with.

    Raises ValueError for a checkpoint rule by groups that are not known, when the loss is no longer finite, and on
    several processes for auxiliary images, a compiled network, or one whose BatchNorm is not torch's own.
    """
    processes = Processes.here()
    data.check(settings.checkpoint, processes)
    compute.prepare(network)
    n_train = sum(_batch_sizes(data, settings))
    state = _State.of(network, data, settings, seed, compute)
    history = _History(CHECKPOINTS[settings.checkpoint])
    if resume is not None:
        state.load(resume, history)
    if history.rows:
        log.info("resuming after epoch %d of %d", len(history.rows), settings.epochs)
    data = data.kept_on_device(compute)
    forward = compute.compiled(network)
    done, total = len(history.rows), settings.epochs
    with (
        compute.repeatable(),
        processes.together(network, forward, compute) as training_forward,
        Progress(called, total * n_train, "image", done=done * n_train, shown=processes.first) as bar,
    ):
        for epoch in range(done + 1, total + 1):
            bar.now(f"{called}, epoch {epoch} of {total}")
            trained = _train_epoch(state, training_forward, data, settings.batch_size, compute, bar.update)
            row = {"epoch": epoch, **trained, **_validate(network, forward, data, settings.batch_size, compute)}
            if not row["train_loss"] < float("inf"):
                raise ValueError(
                    f"the training loss is {row['train_loss']} in epoch {epoch}; lower lr (now {settings.lr})"
                )
            history.add(row, network)
            if resume is not None and processes.first:
                state.save(resume, history)
            log.info(
                "epoch %d of %d: training loss %.4f, validation average %.1f %%, worst group %.1f %%",
                epoch, total, row["train_loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    if history.best is not None:
        network.load_state_dict(history.best)
    return history.frame()


@dataclass
class _History:
    """A row per epoch, and the weights of the best one where the checkpoint rule keeps these."""

    column: str | None  # whose best epoch is kept, the higher average on a tie; None for the last epoch
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None

    def add(self, row: dict[str, Any], network: Network) -> None:
        """Append an epoch that the network has just ended."""
        if self.column is not None and self._rank(row) > max(map(self._rank, self.rows), default=(-1.0, -1.0)):
            self.best = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self.rows.append(row)

    def frame(self) -> pd.DataFrame:
        n = len(self.rows)
        # of equal ones the first, as above
        kept = n - 1 if self.column is None else max(range(n), key=lambda number: self._rank(self.rows[number]))
        return pd.DataFrame(self.rows).assign(kept=np.arange(n) == kept)

    def _rank(self, row: dict[str, Any]) -> tuple[float, float]:
        return row[self.column], row["val_average"]


def _train_epoch(
    state: "_State",
    forward: Callable,
    data: TrainingData,
    batch_size: int,
    compute: Compute,
    report: Callable[[int], None],
) -> dict[str, float]:
    """One pass over the training images: lr of the last step, mean loss and accuracy, mean losses of auxiliary images.

    report: is told how many images each step has used.
    """
    state.network.train()
    device = compute.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    losses = torch.zeros(len(data.auxiliary), device=device)
    epoch = _draw_epoch(data, batch_size, state.generator, device)
    share, seen, last_lr = epoch.share, 0, 0.0
    for step, ((images, labels), *more) in enumerate(zip(epoch.batches, *epoch.auxiliary, strict=True)):
        with compute.autocast(), share.batchnorm(step):
            loss, logits, of_parts = _loss(forward, images, labels, more, data.auxiliary)
        for number, of_part in enumerate(of_parts):
            losses[number] += of_part.detach()
        last_lr = state.step(share.scaled(loss, step))
        if share.counts(step):
            loss_sum += loss.detach() * len(images)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(images)
        report(min(batch_size, epoch.n - step * batch_size))
    loss_sum, correct, seen = Processes.here().totals(loss_sum, correct, seen)
    return {
        "lr": last_lr,
        "train_loss": float(loss_sum) / float(seen),
        "train_accuracy": float(correct) / float(seen),
        **{
            f"loss_{part.name}": value / epoch.steps
            for part, value in zip(data.auxiliary, losses.tolist(), strict=True)
        },
    }


def _loss(
    forward: Callable,
    images: Float[Tensor, "b 3 h w"],
    labels: Int[Tensor, " b"],
    more: Sequence[tuple[Tensor, Tensor]],
    auxiliary: Sequence[AuxiliaryData],
) -> tuple[Float[Tensor, ""], Float[Tensor, "b c"], list[Float[Tensor, ""]]]:
    """Loss of a step, logits of its training images, mean losses of its auxiliary images.

    more: the network's input and the classes of each auxiliary set.
    """
    logits = forward(images if not more else torch.cat([images, *(shown for shown, _ in more)]))
    logits, *auxiliary_logits = logits.split([len(images), *(len(shown) for shown, _ in more)])
    loss = cross_entropy(logits, labels)
    of_parts = [cross_entropy(z, y) for z, (_, y) in zip(auxiliary_logits, more, strict=True)]
    for part, of_part in zip(auxiliary, of_parts, strict=True):
        loss = loss + part.weight * of_part
    return loss, logits, of_parts


@dataclass(frozen=True)
class _Epoch:
    """One pass over the training images, with all that is random in it drawn and on the device."""

    n: int  # images, of all processes
    steps: int
    share: Share  # of this process
    batches: Iterator[tuple[Tensor, Tensor]]  # of training images: the network's input, and classes
    auxiliary: list[Iterator[tuple[Tensor, Tensor]]]  # the same of each auxiliary set


def _draw_epoch(data: TrainingData, batch_size: int, generator: Generator, device: torch.device) -> _Epoch:
    """Draw and move everything before the first step, so that within a step nothing waits for the device."""
    order = torch.cat(list(_batches(torch.randperm(len(data.training.y), generator=generator), batch_size)))
    steps = -(-len(order) // batch_size)
    share = Processes.here().share(len(order), batch_size)

    def show(
        images: LabeledImages, order: Tensor, size: int | list[int], rows: slice | Tensor = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as the network's input, and its classes; of these places in the order alone."""
        views = draw_views(images.pixels.size_on_cpu[order], data.augmentation, generator)[rows].to(device)
        order = order[rows]
        batches = image_batches(images.pixels, order, size, device)
        return _shown(batches, images.y[order].to(device), views, data)

    batches, auxiliary = show(data.training, order, share.sizes, share.rows), []
    for part in data.auxiliary:
        size = min(batch_size, len(part.images.y))
        auxiliary.append(show(part.images, _cycle(len(part.images.y), steps * size, generator), size))
    return _Epoch(len(order), steps, share, batches, auxiliary)


def _shown(
    batches: Iterator[Images], labels: Tensor, views: Views, data: TrainingData
) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for images in batches:
        part = slice(seen, seen + len(images))
        yield prepare(images, data.transform, data.augmentation, views[part]), labels[part]
        seen += len(images)


def _cycle(n: int, length: int, generator: Generator) -> Int[Tensor, " length"]:
    """Rows of a set of n in random order, over and over."""
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-length // n))]
    return torch.cat(rounds)[:length]


def _batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive batches; a last batch of a single image is left out, since BatchNorm cannot learn from it."""
    return (batch for batch in order.split(size) if len(batch) > 1 or len(order) == 1)


def _batch_sizes(data: TrainingData, settings: TrainingSettings | AdamSettings) -> list[int]:
    """Images of each step of an epoch."""
    return [len(batch) for batch in _batches(torch.arange(len(data.training.y)), settings.batch_size)]


@torch.inference_mode()
def _validate(
    network: Network, forward: Callable, data: TrainingData, batch_size: int, compute: Compute
) -> dict[str, float]:
    validation = data.validation
    network.eval()
    processes, n = Processes.here(), len(validation.y)
    logits = []
    for images in image_batches(validation.pixels, torch.arange(n)[processes.part(n)], batch_size, compute.device):
        logits.append(apply(forward, images, data.transform, compute).float())
    logits = processes.gathered(logits, n, network.fc).cpu()
    correct = logits.argmax(1) == validation.y
    groups = accuracy_by(correct, validation.group, int(validation.group.max()) + 1)
    classes = accuracy_by(correct, validation.y, int(validation.y.max()) + 1)
    return {
        "val_loss": float(cross_entropy(logits, validation.y)),
        "val_average": float(correct.double().mean()),
        "val_worst_group": float(worst(groups)) if groups.numel() else float("nan"),
        "val_worst_class": float(worst(classes)),
    }


# State ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """All that changes while training: as safetensors and JSON, so that resuming unpickles nothing."""

    network: Network
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    generator: Generator  # order of the images and augmentation

    @staticmethod
    def of(
        network: Network, data: TrainingData, settings: TrainingSettings | AdamSettings, seed: int, compute: Compute
    ) -> "_State":
        """The state before the first epoch."""
        optimizer = _build_optimizer(network, settings, fused=not compute.on_cpu)
        scheduler = _build_scheduler(optimizer, settings, settings.epochs * len(_batch_sizes(data, settings)))
        return _State(network, optimizer, scheduler, compute.scaler(), Generator().manual_seed(seed))

    def step(self, loss: Float[Tensor, ""]) -> float:
        """One step of the optimizer; the learning rate that it had."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        lr = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        return lr

    def save(self, path: Path, history: _History) -> None:
        tensors = {
            "generator": self.generator.get_state(),
            **{f"network.{key}": value for key, value in self.network.state_dict().items()},
            **{f"optimizer.{key}": value for key, value in as_tensors(self.optimizer).items()},
            **{f"best.{key}": value for key, value in (history.best or {}).items()},
        }
        scheduler = {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}
        progress = {
            "history": history.rows,
            "scheduler": scheduler,
            "lr": [group["lr"] for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict(),
        }
        write_safetensors(path, tensors, {"progress": json.dumps(progress)})

    def load(self, path: Path, history: _History) -> None:
        """Go on from a file of `save`, with the history in it; nothing changes where there is none."""
        found = read_leftover(path)
        if found is None:
            return
        tensors, metadata = found
        progress = json.loads(metadata["progress"])

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        load_tensors(self.optimizer, part("optimizer."))
        for group, lr in zip(self.optimizer.param_groups, progress["lr"], strict=True):
            group["lr"] = lr
        self.scheduler.load_state_dict({"lr_lambdas": [None], **progress["scheduler"]})
        self.scaler.load_state_dict(progress["scaler"])
        self.generator.set_state(tensors["generator"])
        history.rows, history.best = progress["history"], part("best.") or None


def _build_optimizer(
    network: Network, settings: TrainingSettings | AdamSettings, *, fused: bool
) -> torch.optim.Optimizer:
    if isinstance(settings, AdamSettings):
        return torch.optim.Adam(network.parameters(), lr=settings.lr, fused=fused)
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _build_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings | AdamSettings, steps: int
) -> LRScheduler:
    if isinstance(settings, AdamSettings) or settings.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    return OneCycleLR(optimizer, max_lr=settings.lr, total_steps=steps, pct_start=settings.warmup, cycle_momentum=False)

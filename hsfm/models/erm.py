"""Empirical risk minimization: train a whole network with cross-entropy; resumable."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from hsfm.core.device import Compute
from hsfm.core.metrics import validation_measures
from hsfm.core.progress import Progress
from hsfm.core.settings import FrozenSettings
from hsfm.data.pixels import ImageFiles, Images, image_batches, keep_on_device
from hsfm.data.transforms import AugmentationSettings, TransformSettings, apply, draw_views, prepare
from hsfm.models.backbone import Network
from hsfm.models.distributed import data_parallel, process_count, rank, share, total
from hsfm.models.weights import read_resume, write_resume

log = logging.getLogger(__name__)


class _EpochSettings(FrozenSettings):
    """Settings that all optimizers share."""

    epochs: PositiveInt = Field(description="Passes over the training split.")
    batch_size: int = Field(ge=2, description="Images per step.")
    lr: PositiveFloat = Field(description="Learning rate; its peak under one_cycle.")


class ShareRecipe(FrozenSettings):
    """Changes against ERM's recipe; null is ERM's."""

    epochs: PositiveInt | None = Field(None, description="Passes over the share.")
    batch_size: int | None = Field(None, ge=2, description="Images per step.")
    lr: PositiveFloat | None = Field(None, description="Learning rate.")
    weight_decay: float | None = Field(None, ge=0, description="L2 penalty on all weights.")
    schedule: Literal["constant", "one_cycle", "cosine"] | None = Field(None, description="Learning rate over time.")


class TrainingSettings(_EpochSettings):
    """Gradient steps on mean cross-entropy over the training split."""

    epochs: PositiveInt | None = Field(
        description="Passes over the training split; null, as for the rate, takes that of the backbone's family, for "
        "fine-tuning from pretrained weights (docs/how-to/fine-tune.md)."
    )
    lr: PositiveFloat | None = Field(description="Learning rate; its peak under one_cycle. null: the family's.")
    optimizer: Literal["sgd", "adamw"] | None = Field(
        "sgd", description="SGD with momentum, or AdamW, whose decay is decoupled. null: the family's."
    )
    momentum: float = Field(ge=0, lt=1, description="Of SGD; AdamW has its own.")
    nesterov: bool = Field(description="Nesterov's form of momentum, which has to be above 0.")
    weight_decay: float | None = Field(ge=0, description="L2 penalty on all weights. null: the family's.")
    schedule: Literal["constant", "one_cycle", "cosine"] = Field(
        description="Learning rate over time: constant, one_cycle up to lr and down again, or by cosine from lr in the "
        "first epoch down towards a hundredth of it, epoch by epoch."
    )
    warmup: float = Field(gt=0, lt=1, description="Share of the steps on which one_cycle rises.")
    checkpoint: Literal["last", "best_val"] = Field(
        description="Weights to keep: the last epoch's, or those of the first epoch with the best validation average."
    )
    holdout: float | None = Field(
        None, gt=0, lt=1, description="Share of the training images that AFR's own network is not trained on."
    )
    on_share: ShareRecipe | None = Field(
        None, description="How AFR's own network is trained otherwise than ERM's; null for alike."
    )
    early_epoch: PositiveInt | None = Field(
        None,
        description="Epoch before the last whose logits of the validation images are kept, which SELF needs; null for "
        "none. Its authors take one after a tenth, a fifth or half of all epochs.",
    )

    @model_validator(mode="after")
    def _check_early_epoch(self) -> "TrainingSettings":
        if self.early_epoch is not None and self.epochs is not None and self.early_epoch >= self.epochs:
            raise ValueError(f"early_epoch {self.early_epoch} is not before the last of {self.epochs} epochs")
        return self


class AdamSettings(_EpochSettings):
    """Adam at a constant rate, for methods that train a network further."""

    checkpoint: Literal["last", "average", "worst_group", "worst_class"] = Field(
        description="Weights to keep: the last epoch's, or those of the epoch with the best validation measure, the "
        "higher average on a tie."
    )


@dataclass(frozen=True)
class LabeledImages:
    pixels: Images | ImageFiles
    y: Int[Tensor, " n"]
    group: Int[Tensor, " n"]  # -1 where unknown; recorded in the history, never trained on

    @staticmethod
    def of(rows: pd.DataFrame, source: Callable[[pd.DataFrame], Images | ImageFiles]) -> "LabeledImages":
        """Those of some rows of an image table. source: gives the images of rows."""
        y, group = (torch.tensor(rows[name].fillna(-1).astype("int64").to_numpy()) for name in ("y", "group"))
        return LabeledImages(source(rows), y, group)


@dataclass(frozen=True)
class AuxiliaryData:
    """Further images, in one random order with the training images; their mean loss in a batch is added to it."""

    name: str
    images: LabeledImages
    weight: float  # of their loss; that of the training images has 1


@dataclass(frozen=True)
class TrainingData:
    """Images to learn from and to judge epochs by, and the transform and augmentation they go through."""

    training: LabeledImages
    validation: LabeledImages
    transform: TransformSettings
    augmentation: AugmentationSettings  # of training and auxiliary images
    auxiliary: Sequence[AuxiliaryData] = ()

    @property
    def shown(self) -> list[LabeledImages]:
        """The training images, and each auxiliary set."""
        return [self.training, *(part.images for part in self.auxiliary)]

    def kept_on_device(self, compute: Compute) -> "TrainingData":
        """The same; images that fit lie on the device."""
        sets = [self.training, self.validation, *(part.images for part in self.auxiliary)]
        kept = keep_on_device([images.pixels for images in sets], compute)
        training, validation, *others = (replace(s, pixels=pixels) for s, pixels in zip(sets, kept, strict=True))
        auxiliary = [replace(part, images=images) for part, images in zip(self.auxiliary, others, strict=True)]
        return replace(self, training=training, validation=validation, auxiliary=auxiliary)


@dataclass
class _State:
    """All that changes while training."""

    network: Network
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    generator: Generator  # order of the images and augmentation
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the history
    best: dict[str, Tensor] | None = None  # weights of the best epoch, where the checkpoint rule keeps these
    early_logits: Float[Tensor, "n c"] | None = None  # of validation, once `early_epoch` is over


class Training(NamedTuple):
    """The outcome beside the network."""

    history: pd.DataFrame
    early_logits: Float[Tensor, "n c"] | None  # of the validation images, float32 on the CPU; None where none are kept


def train(
    network: Network,
    data: TrainingData,
    settings: TrainingSettings | AdamSettings,
    *,
    seed: int,
    compute: Compute,
    resume: Path | None = None,
    called: str = "ERM",
) -> Training:
    """Train `network` in place on mean cross-entropy; returns the history, one row per epoch, and early logits.

    data: training and auxiliary images are shuffled together, and a batch holds of each what falls into it, so that
    BatchNorm sees them in the share that they have of all. seed: of the order of the images and of the
    augmentation. resume: file of the state after every epoch, from which a killed training goes on to the same
    weights (on the CPU with equal threads, on CUDA with `deterministic`); the caller names it after all that the
    result depends on, and removes it. called: the method.

    Processes that torch.distributed joins train one network; each calls this with the same arguments but for its
    device. Each takes `batch_size` divided by their number, rounded down; images that do not go round are left out.

    History columns: epoch (from 1), lr (of the epoch's last step), train_loss (of the steps, by their images),
    train_accuracy (of the augmented training images, before each step), loss_NAME (mean, of the auxiliary images),
    val_loss, val_average, val_worst_group (NaN where no group is known), val_worst_class, and kept (whose weights
    the network ends with).

    Raises ValueError for settings that are null, when the loss is no longer finite, and on several processes for
    BatchNorm that is not torch's own.
    """
    if None in (settings.epochs, settings.lr):
        raise ValueError("epochs or lr is null; hsfm.models.fine_tuning.filled gives those of a pretrained backbone")
    compute.prepare(network)
    batches, epochs = _cut(sum(len(part.y) for part in data.shown), settings.batch_size), settings.epochs
    state = _start(network, settings, batches.steps, seed, compute)
    if resume is not None:
        _load(state, resume)
    done = len(state.rows)
    if done:
        log.info("resuming after epoch %d of %d", done, epochs)
    data = data.kept_on_device(compute)
    forward = compute.compiled(network)
    training_forward = data_parallel(network, forward)
    progress = Progress(called, epochs * batches.used, "image", done=done * batches.used)
    with compute.repeatable(), progress as bar:
        for epoch in range(done + 1, epochs + 1):
            bar.now(f"{called}, epoch {epoch} of {epochs}")
            trained = _train_epoch(state, training_forward, data, batches, compute, bar)
            measures, logits = _validate(network, forward, data, settings.batch_size, compute)
            row = {"epoch": epoch, **trained, **measures}
            if not row["train_loss"] < float("inf"):
                raise ValueError(
                    f"the training loss is {row['train_loss']} in epoch {epoch}; lower lr (now {settings.lr})"
                )
            state.rows.append(row)
            if isinstance(settings, TrainingSettings) and epoch == settings.early_epoch:
                state.early_logits = logits
            if settings.checkpoint != "last" and _kept(state.rows, settings.checkpoint) == epoch - 1:
                state.best = {key: value.detach().clone() for key, value in network.state_dict().items()}
            if resume is not None and rank() == 0:
                _save(state, resume)
            log.info(
                "epoch %d of %d: training loss %.4f, validation average %.1f %%, worst group %.1f %%",
                epoch, epochs, row["train_loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    if state.best is not None:
        network.load_state_dict(state.best)
    history = pd.DataFrame(state.rows)
    kept = history.index == _kept(state.rows, settings.checkpoint)
    return Training(history.assign(kept=kept), state.early_logits)


def _start(
    network: Network, settings: TrainingSettings | AdamSettings, steps: int, seed: int, compute: Compute
) -> _State:
    """The state before the first step. steps: of an epoch."""
    parameters, how = network.parameters(), {"lr": settings.lr, "fused": not compute.on_cpu}
    if isinstance(settings, AdamSettings):
        optimizer = torch.optim.Adam(parameters, **how)
    elif settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, **how, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, **how, **settings.model_dump(include={"momentum", "nesterov", "weight_decay"})
        )
    if isinstance(settings, AdamSettings) or settings.schedule == "constant":
        scheduler = LambdaLR(optimizer, lambda step: 1.0)
    elif settings.schedule == "cosine":
        # AFR's: CosineAnnealingLR over the epochs, down to lr / 100 after the last
        turn = math.pi / settings.epochs
        scheduler = LambdaLR(optimizer, lambda step: 0.01 + 0.99 * (1 + math.cos(turn * (step // steps))) / 2)
    else:
        rise = {"max_lr": settings.lr, "pct_start": settings.warmup, "cycle_momentum": False}
        scheduler = OneCycleLR(optimizer, total_steps=settings.epochs * steps, **rise)
    return _State(network, optimizer, scheduler, compute.scaler(), Generator().manual_seed(seed))


_STATEFUL = ("network", "optimizer", "scheduler", "scaler")
_PLAIN = ("rows", "best", "early_logits")


def _save(state: _State, path: Path) -> None:
    parts = {name: getattr(state, name).state_dict() for name in _STATEFUL}
    others = {name: getattr(state, name) for name in _PLAIN}
    write_resume(path, {**parts, "generator": state.generator.get_state(), **others})


def _load(state: _State, path: Path) -> None:
    """Go on from a file of `_save`; nothing changes where there is none."""
    found = read_resume(path)
    if found is not None:
        for name in _STATEFUL:
            getattr(state, name).load_state_dict(found[name])
        state.generator.set_state(found["generator"])
        for name in _PLAIN:
            setattr(state, name, found[name])


def _kept(rows: Sequence[dict[str, Any]], checkpoint: str) -> int:
    """The row of the epoch whose weights are kept: of equal ones that of the higher average, then the first."""
    if checkpoint == "last":
        return len(rows) - 1
    column = "val_average" if checkpoint == "best_val" else f"val_{checkpoint}"
    return max(range(len(rows)), key=lambda n: (rows[n][column], rows[n]["val_average"]))


class _Batches(NamedTuple):
    """Batches of an epoch's images, in random order."""

    drawn: int  # images of the order
    used: int  # of these, by all processes together
    size: int  # of this process's batches
    steps: int


def _cut(n: int, batch_size: int) -> _Batches:
    """A last batch of one is left out, since BatchNorm cannot learn from it."""
    drawn, processes = n - int(n > 1 and n % batch_size == 1), process_count()
    own, size = drawn // processes, max(batch_size // processes, 1)
    return _Batches(drawn, own * processes, size, math.ceil(own / size))


def _train_epoch(
    state: _State, forward: Callable, data: TrainingData, batches: _Batches, compute: Compute, bar: Progress
) -> dict[str, float]:
    """One pass over the training and auxiliary images; its columns of the history."""
    state.network.train()
    weights = torch.tensor([1.0, *(part.weight for part in data.auxiliary)], device=compute.device)
    losses = torch.zeros((), device=compute.device)  # of the steps, times their images
    found = torch.zeros(len(weights), 3, device=compute.device)  # of each set: loss, right answers, images
    for step in _draw_epoch(data, batches, state.generator, compute.device):
        shown, labels = zip(*step.values(), strict=True)
        with compute.autocast():
            logits = forward(torch.cat(shown) if len(shown) > 1 else shown[0]).split([len(y) for y in labels])
            each = [cross_entropy(z, y) for z, y in zip(logits, labels, strict=True)]
            loss = sum(weights[number] * mean for number, mean in zip(step, each, strict=True))
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        lr = state.scheduler.get_last_lr()[0]
        state.scheduler.step()
        n = sum(map(len, labels))
        losses += loss.detach() * n
        for number, mean, z, y in zip(step, each, logits, labels, strict=True):
            found[number, 0] += mean.detach() * len(y)
            found[number, 1] += (z.argmax(1) == y).sum()
            found[number, 2] += len(y)
        bar.update(n * process_count())
    train_loss = total(losses).item() / batches.used
    (_, correct, shown), *others = total(found).tolist()
    of_auxiliary = zip(data.auxiliary, others, strict=True)
    return {
        "lr": lr,
        "train_loss": train_loss,
        "train_accuracy": correct / shown,
        # the one image that is left over, or that no process has, may be all of a set
        **{f"loss_{part.name}": value / images if images else math.nan for part, (value, _, images) in of_auxiliary},
    }


def _draw_epoch(
    data: TrainingData, batches: _Batches, generator: Generator, device: torch.device
) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Input and classes of each step's images, by the number of their set among `data.shown`; of sets that it shows.

    All is drawn and moved before the first step, so that within a step nothing waits for the device.
    """
    ends = torch.tensor([len(images.y) for images in data.shown]).cumsum(0)
    order = torch.randperm(int(ends[-1]), generator=generator)[: batches.drawn]
    in_set, own = torch.bucketize(order, ends, right=True), torch.zeros(len(order), dtype=torch.bool)
    own[share(batches.used)] = True
    parts, drawn = in_set[own].split(batches.size), []
    for number, (images, end) in enumerate(zip(data.shown, ends.tolist(), strict=True)):
        here = in_set == number
        rows, mine = order[here] - (end - len(images.y)), own[here].nonzero()[:, 0]
        views = draw_views(images.pixels.size_on_cpu[rows], data.augmentation, generator)[mine].to(device)
        rows, sizes = rows[mine], [n for part in parts if (n := int((part == number).sum()))]
        labels, pixels = images.y[rows].to(device).split(sizes), image_batches(images.pixels, rows, sizes, device)
        seen = [views[end - n : end] for n, end in zip(sizes, accumulate(sizes), strict=True)]
        drawn.append(zip(pixels, labels, seen, strict=True))
    for part in parts:
        shown = ((number, next(drawn[number])) for number in part.unique().tolist())
        yield {number: (prepare(p, data.transform, data.augmentation, view), y) for number, (p, y, view) in shown}


@torch.inference_mode()
def _validate(
    network: Network, forward: Callable, data: TrainingData, batch_size: int, compute: Compute
) -> tuple[dict[str, float], Float[Tensor, "n c"]]:
    """Measures of the validation images for the history, and their logits on the CPU, which all processes have."""
    network.eval()
    pixels, y, group = data.validation.pixels, data.validation.y, data.validation.group
    logits, own = torch.zeros(len(y), network.fc.out_features, device=compute.device), share(len(y))
    batches = image_batches(pixels, torch.arange(len(y))[own], batch_size, compute.device)
    for images, rows in zip(batches, logits[own].split(batch_size), strict=False):
        rows.copy_(apply(forward, images, data.transform, compute))
    logits = total(logits).cpu()
    n_classes, n_groups = (int(part.max().clamp(min=0)) + 1 for part in (y, group))
    measures = validation_measures(logits.argmax(1) == y, y, group, n_classes, n_groups)
    return {name: float(value) for name, value in {"val_loss": cross_entropy(logits, y), **measures}.items()}, logits

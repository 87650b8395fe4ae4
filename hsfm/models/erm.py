"""Empirical risk minimization: train a whole network with cross-entropy; resumable.

The loss is that of the training images, or of these and auxiliary sets, each with a weight of its own.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from hsfm.core.device import Compute
from hsfm.core.files import read_leftover, write_safetensors
from hsfm.core.metrics import accuracy_by, worst
from hsfm.core.progress import Progress
from hsfm.data.pixels import ImageFiles, Images, image_batches, keep_on_device
from hsfm.data.table import ImageTable
from hsfm.data.transforms import Views, apply, draw_views, prepare
from hsfm.models.backbone import Network
from hsfm.models.distributed import Processes
from hsfm.models.optimizer_state import as_tensors, load_tensors

log = logging.getLogger(__name__)

SCHEDULES = ("constant", "cosine", "one_cycle")
OPTIMIZERS = ("sgd", "adam")
# which epoch's weights are kept: the last one's, or those of the best of a column of the history
CHECKPOINTS = {
    "last": None,
    "best_val": "val_average",
    "best_worst_group": "val_worst_group",
    "best_worst_class": "val_worst_class",
}


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


def train(
    network: Network,
    training: LabeledImages,
    validation: LabeledImages,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    schedule: str,
    warmup: float,
    checkpoint: str,
    transform_settings: dict,
    augment_settings: dict,
    seed: int,
    compute: Compute,
    resume: Path | None = None,
    optimizer: str = "sgd",
    auxiliary: Sequence[AuxiliaryData] = (),
    called: str = "ERM",
) -> pd.DataFrame:
    """Train `network` in place on mean cross-entropy; returns the history, one row per epoch.

    optimizer: `sgd`, or `adam`, which has no use for momentum and nesterov. schedule: `constant`; `cosine` from `lr` to
    0 over all steps; `one_cycle` up to `lr` during the first `warmup` share of the steps and down to nearly 0.
    checkpoint: `last` keeps the last epoch's weights, `best_val` those of the first epoch with the best validation
    average, `best_worst_group` and `best_worst_class` those of the best lowest accuracy of a group or class, the higher
    average on a tie. compute: device, precision and what else changes rounding alone. resume: a file that holds the
    state after every epoch; a process that finds it goes on from there and, on the CPU with equal threads or on CUDA
    with `deterministic`, ends with the weights of an undisturbed one. The caller names it after everything the result
    depends on, and removes it when done. auxiliary: further images with a loss of their own; they pass through the
    network in one batch with the training images, so that BatchNorm sees them together. called: the method, where it
    shows how far it has come.

    Where torch.distributed joins processes, each calls this with the same arguments but for its device: they train one
    network on batches of `batch_size` images in all, and each ends with it and with the history of all. The file
    `resume` is written by the first and read by every one of them.

    History columns: epoch (from 1), lr (of the epoch's last step), train_loss, train_accuracy (of the augmented
    training images, before each step), loss_NAME (mean, of the auxiliary images), val_loss, val_average,
    val_worst_group (NaN where no group is known), val_worst_class, and kept, true for the epoch whose weights the
    network ends with.

    Raises ValueError for an unknown optimizer, schedule or checkpoint rule, for a rule by groups that are not known,
    when the loss is no longer finite, and on several processes for auxiliary images, a compiled network, or one whose
    BatchNorm is not torch's own.
    """
    for what, value, allowed in (
        ("schedule", schedule, SCHEDULES),
        ("checkpoint", checkpoint, CHECKPOINTS),
        ("optimizer", optimizer, OPTIMIZERS),
    ):
        if value not in allowed:
            raise ValueError(f"{what}: {value!r} is unknown; allowed are {', '.join(allowed)}")
    if checkpoint == "best_worst_group" and (validation.group < 0).any():
        raise ValueError("checkpoint: best_worst_group needs the group of every validation image, and some have none")
    for images in (training, *(part.images for part in auxiliary)):
        if images.pixels.size_on_cpu is None:
            raise ValueError("training images: height and width of some are not known; the image table has to say them")
    processes = Processes.here()
    if auxiliary and not processes.alone:
        raise ValueError(
            f"auxiliary: {len(auxiliary)} sets of images, which {processes.count} processes cannot share out"
        )
    compute.prepare(network)
    settings = {"lr": lr, "weight_decay": weight_decay, "fused": not compute.on_cpu}
    if optimizer == "sgd":
        stepper = torch.optim.SGD(network.parameters(), momentum=momentum, nesterov=nesterov, **settings)
    else:
        stepper = torch.optim.Adam(network.parameters(), **settings)
    sizes = [len(batch) for batch in _batches(torch.arange(len(training.y)), batch_size)]
    scheduler = _schedule(stepper, schedule, lr, epochs * len(sizes), warmup)
    generator = Generator().manual_seed(seed)  # order of the images and augmentation
    state = _State(network, stepper, scheduler, compute.scaler(), generator)
    history, best = state.load(resume) if resume is not None else ([], None)
    if history:
        log.info("resuming after epoch %d of %d", len(history), epochs)
    sets = [training, validation, *(part.images for part in auxiliary)]
    kept = keep_on_device([images.pixels for images in sets], compute)
    training, validation, *others = (replace(s, pixels=pixels) for s, pixels in zip(sets, kept, strict=True))
    auxiliary = [replace(part, images=images) for part, images in zip(auxiliary, others, strict=True)]
    column = CHECKPOINTS[checkpoint]

    def rank(row: Mapping[str, Any]) -> tuple[float, float]:
        return row[column], row["val_average"]

    forward, n = compute.compiled(network), sum(sizes)

    with (
        compute.repeatable(),
        processes.together(network, forward, compute) as training_forward,
        Progress(called, epochs * n, "image", done=len(history) * n, shown=processes.first) as bar,
    ):
        for epoch in range(len(history) + 1, epochs + 1):
            bar.now(f"{called}, epoch {epoch} of {epochs}")
            row = {
                "epoch": epoch,
                **_train_epoch(
                    state,
                    training_forward,
                    training,
                    auxiliary,
                    batch_size,
                    transform_settings,
                    augment_settings,
                    compute,
                    bar.update,
                ),
                **_validate(network, forward, validation, batch_size, transform_settings, compute),
            }
            if not row["train_loss"] < float("inf"):
                raise ValueError(f"the training loss is {row['train_loss']} in epoch {epoch}; lower lr (now {lr})")
            history.append(row)
            if column is not None and rank(row) > max(map(rank, history[:-1]), default=(-1.0, -1.0)):
                best = {key: value.detach().clone() for key, value in network.state_dict().items()}
            if resume is not None and processes.first:
                state.save(resume, history, best)
            log.info(
                "epoch %d of %d: training loss %.4f, validation average %.1f %%, worst group %.1f %%",
                epoch, epochs, row["train_loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    if best is not None:
        network.load_state_dict(best)
    # of equal ones the first, as above
    kept = len(history) - 1 if column is None else max(range(len(history)), key=lambda number: rank(history[number]))
    return pd.DataFrame(history).assign(kept=np.arange(len(history)) == kept)


def _train_epoch(
    state: "_State",
    forward: Callable,
    training: LabeledImages,
    auxiliary: Sequence[AuxiliaryData],
    batch_size: int,
    transform_settings: dict,
    augment_settings: dict,
    compute: Compute,
    report: Callable[[int], None],
) -> dict[str, float]:
    """One pass over the training images: lr of the last step, mean loss and accuracy, mean losses of auxiliary images.

    report: is told how many images each step has used.
    """
    state.network.train()
    device = compute.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    losses = torch.zeros(len(auxiliary), device=device)
    # all that is random is drawn and moved before the first step, so that within a step nothing waits for the device
    order = torch.cat(list(_batches(torch.randperm(len(training.y), generator=state.generator), batch_size)))
    steps = -(-len(order) // batch_size)
    processes = Processes.here()
    share = processes.share(len(order), batch_size)

    def show(
        images: LabeledImages, order: Tensor, size: int | list[int], rows: slice | Tensor = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as the network's input, and its classes; of these places in the order alone."""
        views = draw_views(images.pixels.size_on_cpu[order], augment_settings, state.generator)[rows].to(device)
        order = order[rows]
        batches = image_batches(images.pixels, order, size, device)
        return _shown(batches, images.y[order].to(device), views, transform_settings, augment_settings)

    batches = show(training, order, share.sizes, share.rows)
    others = []
    for part in auxiliary:
        size = min(batch_size, len(part.images.y))
        others.append(show(part.images, _cycle(len(part.images.y), steps * size, state.generator), size))
    seen, last_lr = 0, 0.0
    for step, ((images, labels), *more) in enumerate(zip(batches, *others, strict=True)):
        with compute.autocast(), share.batchnorm(step):
            logits = forward(images if not more else torch.cat([images, *(shown for shown, _ in more)]))
            logits, *auxiliary_logits = logits.split([len(images), *(len(shown) for shown, _ in more)])
            loss = cross_entropy(logits, labels)
            for number, (z, (_, y)) in enumerate(zip(auxiliary_logits, more, strict=True)):
                of_part = cross_entropy(z, y)
                loss = loss + auxiliary[number].weight * of_part
                losses[number] += of_part.detach()
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(share.scaled(loss, step)).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        last_lr = state.scheduler.get_last_lr()[0]
        state.scheduler.step()
        if share.counts(step):
            loss_sum += loss.detach() * len(images)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(images)
        report(min(batch_size, len(order) - step * batch_size))
    loss_sum, correct, seen = processes.totals(loss_sum, correct, seen)
    return {
        "lr": last_lr,
        "train_loss": float(loss_sum) / float(seen),
        "train_accuracy": float(correct) / float(seen),
        **{f"loss_{part.name}": value / steps for part, value in zip(auxiliary, losses.tolist(), strict=True)},
    }


def _shown(
    batches: Iterator[Images], labels: Tensor, views: Views, transform_settings: dict, augment_settings: dict
) -> Iterator[tuple[Tensor, Tensor]]:
    seen = 0
    for images in batches:
        part = slice(seen, seen + len(images))
        yield prepare(images, transform_settings, augment_settings, views[part]), labels[part]
        seen += len(images)


def _cycle(n: int, length: int, generator: Generator) -> Int[Tensor, " length"]:
    """Rows of a set of n in random order, over and over."""
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-length // n))]
    return torch.cat(rounds)[:length]


def _batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive batches; a last batch of a single image is left out, since BatchNorm cannot learn from it."""
    return (batch for batch in order.split(size) if len(batch) > 1 or len(order) == 1)


def _schedule(optimizer: torch.optim.Optimizer, name: str, lr: float, steps: int, warmup: float) -> LRScheduler:
    if name == "one_cycle":
        return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LambdaLR(optimizer, lambda step: 1.0)


@torch.inference_mode()
def _validate(
    network: Network,
    forward: Callable,
    validation: LabeledImages,
    batch_size: int,
    transform_settings: dict,
    compute: Compute,
) -> dict[str, float]:
    network.eval()
    processes, n = Processes.here(), len(validation.y)
    logits = []
    for images in image_batches(validation.pixels, torch.arange(n)[processes.part(n)], batch_size, compute.device):
        logits.append(apply(forward, images, transform_settings, compute).float())
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


@dataclass(frozen=True)
class _State:
    """All that changes while training: as safetensors and JSON, so that resuming unpickles nothing."""

    network: Network
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    generator: Generator

    def save(self, path: Path, history: list[dict], best: dict[str, Tensor] | None) -> None:
        tensors = {
            "generator": self.generator.get_state(),
            **{f"network.{key}": value for key, value in self.network.state_dict().items()},
            **{f"optimiser.{key}": value for key, value in as_tensors(self.optimizer).items()},
            **{f"best.{key}": value for key, value in (best or {}).items()},
        }
        scheduler = {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}
        progress = {
            "history": history,
            "scheduler": scheduler,
            "lr": [group["lr"] for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict(),
        }
        write_safetensors(path, tensors, {"progress": json.dumps(progress)})

    def load(self, path: Path) -> tuple[list[dict], dict[str, Tensor] | None]:
        found = read_leftover(path)
        if found is None:
            return [], None
        tensors, metadata = found
        progress = json.loads(metadata["progress"])

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        load_tensors(self.optimizer, part("optimiser."))
        for group, lr in zip(self.optimizer.param_groups, progress["lr"], strict=True):
            group["lr"] = lr
        self.scheduler.load_state_dict({"lr_lambdas": [None], **progress["scheduler"]})
        self.scaler.load_state_dict(progress["scaler"])
        self.generator.set_state(tensors["generator"])
        return progress["history"], part("best.") or None

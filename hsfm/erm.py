"""Empirical risk minimisation: train a whole network with cross-entropy, and go on where a killed run stopped."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Int
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from hsfm.augment import apply, draw_views, prepare
from hsfm.backbone import Network
from hsfm.device import Compute
from hsfm.files import read_safetensors, write_safetensors
from hsfm.metrics import accuracy_by, worst
from hsfm.pixels import ImageFiles, Images, feed, keep_on_device

log = logging.getLogger(__name__)

SCHEDULES = ("constant", "cosine", "one_cycle")


@dataclass(frozen=True)
class LabelledImages:
    pixels: Images | ImageFiles
    y: Int[Tensor, " n"]
    group: Int[Tensor, " n"]  # -1 where unknown; recorded in the history, never trained on


def train(
    network: Network,
    training: LabelledImages,
    validation: LabelledImages,
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
) -> pd.DataFrame:
    """Train `network` in place by SGD on mean cross-entropy; returns the history, one row per epoch.

    schedule: `constant`; `cosine` from `lr` to 0 over all steps; `one_cycle` up to `lr` during the first `warmup` share
    of the steps and down to nearly 0. checkpoint: `last` keeps the last epoch's weights, `best_val` those of the first
    epoch with the best validation average. compute: device, precision and what else changes rounding alone. resume: a
    file that holds the state after every epoch; a run that finds it goes on from there and, on the CPU with equal
    threads or on CUDA with `deterministic`, ends with the weights of an undisturbed run. The caller names it after
    everything the result depends on, and removes it when done.

    History columns: epoch (from 1), lr (of the epoch's last step), train_loss, train_accuracy (of the augmented
    images, before each step), val_loss, val_average, val_worst_group (NaN where no group is known).

    Raises ValueError for an unknown schedule or checkpoint rule, and when the loss is no longer finite.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r} is unknown; allowed are {', '.join(SCHEDULES)}")
    if checkpoint not in ("last", "best_val"):
        raise ValueError(f"checkpoint: {checkpoint!r} is unknown; allowed are last, best_val")
    if training.pixels.size_on_cpu is None:
        raise ValueError("training images: height and width of some are not known; the image table has to say them")
    compute.prepare(network)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=not compute.on_cpu,
    )
    steps = len(list(_batches(torch.arange(len(training.y)), batch_size)))
    scheduler = _schedule(optimiser, schedule, lr, epochs * steps, warmup)
    generator = Generator().manual_seed(seed)  # order of the images and augmentation
    state = _State(network, optimiser, scheduler, compute.scaler(), generator)
    history, best = state.load(resume) if resume is not None and resume.exists() else ([], None)
    if history:
        log.info("resuming after epoch %d of %d", len(history), epochs)
    both = keep_on_device([training.pixels, validation.pixels], compute)
    training, validation = (replace(p, pixels=kept) for p, kept in zip((training, validation), both, strict=True))
    forward = compute.compiled(network)

    with compute.repeatable():
        for epoch in tqdm(
            range(len(history) + 1, epochs + 1), "ERM", epochs, initial=len(history), unit="epoch", disable=None
        ):
            row = {
                "epoch": epoch,
                **_train_epoch(state, forward, training, batch_size, transform_settings, augment_settings, compute),
                **_validate(network, forward, validation, batch_size, transform_settings, compute),
            }
            if not row["train_loss"] < float("inf"):
                raise ValueError(f"the training loss is {row['train_loss']} in epoch {epoch}; lower lr (now {lr})")
            history.append(row)
            if checkpoint == "best_val" and row["val_average"] > max(
                [h["val_average"] for h in history[:-1]], default=-1.0
            ):
                best = {key: value.detach().clone() for key, value in network.state_dict().items()}
            if resume is not None:
                state.save(resume, history, best)
            log.info(
                "epoch %d of %d: training loss %.4f, validation average %.1f %%, worst group %.1f %%",
                epoch, epochs, row["train_loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    if best is not None:
        network.load_state_dict(best)
    return pd.DataFrame(history)


def _train_epoch(
    state: "_State",
    forward: Callable,
    training: LabelledImages,
    batch_size: int,
    transform_settings: dict,
    augment_settings: dict,
    compute: Compute,
) -> dict[str, float]:
    """One pass over the training images: lr of the last step, mean loss and accuracy."""
    state.network.train()
    device = compute.device
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    # all that is random is drawn and moved before the first step, so that within a step nothing waits for the device
    order = torch.cat(list(_batches(torch.randperm(len(training.y), generator=state.generator), batch_size)))
    views = draw_views(training.pixels.size_on_cpu[order], augment_settings, state.generator).to(device)
    labels = training.y[order].to(device)
    batches = feed(training.pixels, order, batch_size, device)
    bar = tqdm(total=len(order), desc="epoch", unit="image", leave=False, disable=None)
    seen, last_lr = 0, 0.0
    for images in batches:
        part = slice(seen, seen + len(images))
        shown = prepare(images, transform_settings, augment_settings, views[part])
        with compute.autocast():
            logits = forward(shown)
            loss = cross_entropy(logits, labels[part])
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimiser)
        state.scaler.update()
        last_lr = state.scheduler.get_last_lr()[0]
        state.scheduler.step()
        loss_sum += loss.detach() * len(images)
        correct += (logits.detach().argmax(1) == labels[part]).sum()
        seen += len(images)
        bar.update(len(images))
    bar.close()
    return {"lr": last_lr, "train_loss": float(loss_sum) / seen, "train_accuracy": float(correct) / seen}


def _batches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive batches; a last batch of a single image is left out, since BatchNorm cannot learn from it."""
    return (batch for batch in order.split(size) if len(batch) > 1 or len(order) == 1)


def _schedule(optimiser: torch.optim.Optimizer, name: str, lr: float, steps: int, warmup: float) -> LRScheduler:
    if name == "one_cycle":
        return OneCycleLR(optimiser, max_lr=lr, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    if name == "cosine":
        return CosineAnnealingLR(optimiser, T_max=steps)
    return LambdaLR(optimiser, lambda step: 1.0)


@torch.inference_mode()
def _validate(
    network: Network,
    forward: Callable,
    validation: LabelledImages,
    batch_size: int,
    transform_settings: dict,
    compute: Compute,
) -> dict[str, float]:
    network.eval()
    logits = []
    for images in feed(validation.pixels, torch.arange(len(validation.y)), batch_size, compute.device):
        logits.append(apply(forward, images, transform_settings, compute).float())
    logits = torch.cat(logits).cpu()
    correct = logits.argmax(1) == validation.y
    groups = accuracy_by(correct, validation.group, int(validation.group.max()) + 1)
    return {
        "val_loss": float(cross_entropy(logits, validation.y)),
        "val_average": float(correct.double().mean()),
        "val_worst_group": float(worst(groups)) if groups.numel() else float("nan"),
    }


@dataclass(frozen=True)
class _State:
    """All that changes while training: as safetensors and JSON, so that resuming unpickles nothing."""

    network: Network
    optimiser: torch.optim.SGD
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    generator: Generator

    def save(self, path: Path, history: list[dict], best: dict[str, Tensor] | None) -> None:
        momentum = {
            str(number): state["momentum_buffer"]
            for number, state in self.optimiser.state_dict()["state"].items()
            if state.get("momentum_buffer") is not None
        }
        tensors = {
            "generator": self.generator.get_state(),
            **{f"network.{key}": value for key, value in self.network.state_dict().items()},
            **{f"momentum.{key}": value for key, value in momentum.items()},
            **{f"best.{key}": value for key, value in (best or {}).items()},
        }
        scheduler = {key: value for key, value in self.scheduler.state_dict().items() if key != "lr_lambdas"}
        progress = {
            "history": history,
            "scheduler": scheduler,
            "lr": [group["lr"] for group in self.optimiser.param_groups],
            "scaler": self.scaler.state_dict(),
        }
        write_safetensors(path, tensors, {"progress": json.dumps(progress)})

    def load(self, path: Path) -> tuple[list[dict], dict[str, Tensor] | None]:
        tensors, metadata = read_safetensors(path)
        progress = json.loads(metadata["progress"])

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        state = self.optimiser.state_dict()
        parameters = list(self.network.parameters())
        state["state"] = {
            # in the memory order of its parameter, which kernels that take both at once rely on
            int(number): {"momentum_buffer": torch.empty_like(parameters[int(number)]).copy_(value).detach()}
            for number, value in part("momentum.").items()
        }
        self.optimiser.load_state_dict(state)
        for group, lr in zip(self.optimiser.param_groups, progress["lr"], strict=True):
            group["lr"] = lr
        self.scheduler.load_state_dict({"lr_lambdas": [None], **progress["scheduler"]})
        self.scaler.load_state_dict(progress["scaler"])
        self.generator.set_state(tensors["generator"])
        return progress["history"], part("best.") or None

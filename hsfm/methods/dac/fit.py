"""DaC, decompose and compose: a head retrained on images recomposed of parts of several.

Noohdani et al., "Decompose-and-Compose: A Compositional Approach to Mitigating Spurious Correlation" (CVPR 2024). What
a mask keeps of an image is taken to be its object; it is shown alone, and in what is left of an image of another class.

Letters: n images, b of a batch, k of these selected, d features, c classes. With images x, masks m, the batch's mean
color mu and a partner j of another class for each selected i:

    masked   = x_i m_i + (1 - m_i) mu
    composed = x_i m_i + (1 - m_i) (1 - m_j) x_j + (1 - m_i) m_j mu

both of the class of i. The loss is CE(batch) + alpha CE(masked) + alpha CE(composed).
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.core.progress import Progress
from hsfm.core.text import kept_epochs
from hsfm.data.pixels import ImageFiles, Images, image_batches, keep_on_device
from hsfm.data.transforms import TransformSettings, apply, prepare
from hsfm.features.embeddings import Embeddings
from hsfm.features.standardize import Standardization
from hsfm.heads.draw import draw_per_class
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer
from hsfm.methods.dac.masks import Masks, unpack
from hsfm.models.backbone import Network

log = logging.getLogger(__name__)


class Settings(MethodSettings):
    alpha: float = Field(6.0, ge=0, description="Weight of the masked and of the composed images in the loss.")
    quantile: float = Field(
        0.8, ge=0, le=1, description="q: share of the training images, of the lowest loss under ERM, to be composed."
    )
    batch_size: PositiveInt = Field(64, description="Training images per step.")
    epochs: PositiveInt = Field(6, description="Passes over the training split.")
    lr: float = Field(0.005, gt=0, description="Adam's learning rate on the head.")
    lr_halved_every: PositiveInt = Field(5, description="Epochs after which it is halved.")
    invert: bool = Field(False, description="The masks leave out the object, where ERM looks at the scenery.")
    batchnorm: Literal["frozen", "drift"] = Field(
        "frozen",
        description="frozen leaves the features as they are; drift normalizes by each batch and lets the running "
        "statistics follow, as the authors' code does, so that each seed has features of its own.",
    )
    balance_classes: bool = Field(False, description="As many images of each class as the smallest has, drawn.")


@dataclass(frozen=True)
class DaCInputs:
    """Inputs of DaC beside embeddings: what leads from images to their features, masks, and the images."""

    network: Network
    transform: TransformSettings
    standardization: Standardization | None  # of the features
    compute: Compute
    masks: Masks  # of train, row by row
    pixels: Callable[[str], Images | ImageFiles]  # the images of a split, row by row as in its embeddings


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, inputs: DaCInputs,
) -> Fit:  # fmt: skip
    """Heads fitted by DaC on the features of a network, one per seed.

    erm: the head `[c d]` that says which images are easy. Where BatchNorm drifts, each seed has a network of its own.

    History columns: epoch (from 1), loss, batch_loss, masked_loss, composed_loss (means over the steps that had such
    images), selected (share of the images), val_average, val_worst_group (NaN where no group is known),
    val_worst_class, seed, kept. Raises ValueError for drift without BatchNorm, where train or val is the test split,
    and for a loss that is no longer finite.
    """
    for part in (train, val):
        part.refuse_test("DaC")
    found = [_fit_seed(val, scorer, _Training(train, erm, inputs, settings, seed), inputs, seed) for seed in seeds]
    heads, histories, networks = zip(*found, strict=True)
    drifts, history = settings.batchnorm == "drift", pd.concat(histories, ignore_index=True)
    return Fit(
        head=stack(heads),
        seeds=tuple(seeds),
        chosen_by=f"the epoch with the best validation {scorer.in_words}"
        + ("" if scorer.rule == "average" else ", then average"),
        summary=kept_epochs(history),
        remarks=("scored on features of its own, since BatchNorm's statistics drifted" if drifts else "",) * len(seeds),
        tables={"history": history},
        networks=networks if drifts else (),
    )


def _fit_seed(
    val: Embeddings, scorer: Scorer, training: "_Training", inputs: DaCInputs, seed: int
) -> tuple[Head, pd.DataFrame, Network | None]:
    """The kept head, the history and, where BatchNorm drifts, the network of one seed."""
    extractor, compute, settings = training.extractor, inputs.compute, training.settings
    held_out = inputs.pixels("val") if extractor.drifts else None
    features, history, best = val.features.to(compute.device), [], None
    with compute.repeatable(), Progress("DaC", settings.epochs * training.n, "image") as bar:
        for epoch in range(1, settings.epochs + 1):
            bar.now(f"DaC, epoch {epoch} of {settings.epochs}")
            row = {"epoch": epoch, **training.epoch(bar.update)}
            if not np.isfinite(row["loss"]):
                raise ValueError(f"DaC: the loss is {row['loss']} in epoch {epoch}; lower lr (now {settings.lr})")
            if held_out is not None:
                features = extractor.of_images(held_out, settings.batch_size)
            measures = scorer.measures(training.head.logits(features).to(val.y.device))
            row |= {name: float(value) for name, value in measures.items()}
            history.append(row)
            score = float(scorer.choose(measures)), row["val_average"]
            if best is None or score > best[0]:
                state = copy.deepcopy(extractor.network.state_dict()) if extractor.drifts else None
                best = score, epoch, training.head.to(torch.device("cpu")), state
            log.info(
                "seed %d, epoch %d of %d: loss %.4f, validation average %.1f %%, worst group %.1f %%",
                seed, epoch, settings.epochs, row["loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    _, kept, head, state = best
    frame = pd.DataFrame(history)
    frame = frame.assign(seed=seed, kept=frame["epoch"] == kept)
    if not extractor.drifts:
        return head, frame, None
    extractor.network.load_state_dict(state)
    extractor.network.fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    return head, frame, extractor.network


def draw_partners(y: Int[Tensor, " k"], generator: Generator) -> Int[Tensor, " k"]:
    """For each image one of another class, uniformly with replacement; a permutation where there is one class only."""
    counts = torch.bincount(y)
    if (counts > 0).sum() < 2:
        return torch.randperm(len(y), generator=generator)
    by_class = y.argsort(stable=True)
    first, own = (counts.cumsum(0) - counts)[y], counts[y]
    # a number among the others, counted past the block of one's own class
    number = (torch.rand(len(y), dtype=torch.float64, generator=generator) * (len(y) - own)).long()
    return by_class[torch.where(number < first, number, number + own)]


def compose(
    x: Float[Tensor, "k 3 h w"], m: Bool[Tensor, "k h w"], partner: Int[Tensor, " k"], mean: Float[Tensor, " 3"]
) -> tuple[Float[Tensor, "k 3 h w"], Float[Tensor, "k 3 h w"]]:
    """Masked images, and images composed with their partners; `mean` fills what neither shows."""
    m, mean = m[:, None], mean.view(1, 3, 1, 1)
    elsewhere = torch.where(m[partner], mean, x[partner])
    return torch.where(m, x, mean), torch.where(m, x, elsewhere)


def easy_rows(erm: Head, train: Embeddings, quantile: float) -> Bool[Tensor, " n"]:
    """Images that DaC may mask and compose: the share `quantile` of those with the lowest loss under ERM's head."""
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    return loss <= float(np.quantile(loss.numpy(), quantile))


class _Extractor:
    """Features of what a network sees, with BatchNorm as it is, or following the batches, on a copy of the network.

    Raises ValueError for drift without BatchNorm, or of features that are standardized.
    """

    def __init__(self, inputs: DaCInputs, *, drifts: bool):
        self.drifts, self._inputs = drifts, inputs
        self.network = copy.deepcopy(inputs.network) if drifts else inputs.network
        inputs.compute.prepare(self.network).eval()
        norms = [module for module in self.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if drifts and not norms:
            raise ValueError("batchnorm: drift was asked for, but this backbone has no BatchNorm; set it to frozen")
        if drifts and inputs.standardization is not None:
            raise ValueError("batchnorm: drift moves the features, which standardized ones cannot follow; set frozen")
        self._drifting = norms if drifts else []
        self._forward = inputs.compute.compiled(self.network.features)

    def __call__(self, shown: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features for training a head, which no gradient passes."""
        compute, standardization = self._inputs.compute, self._inputs.standardization
        for norm in self._drifting:
            norm.train()
        parts = [slice(None)] if self.drifts else compute.parts(len(shown), *shown.shape[-2:])
        with torch.inference_mode(), compute.autocast():
            features = torch.cat([self._forward(shown[part]).float() for part in parts])
        for norm in self._drifting:
            norm.eval()
        features = features.clone()  # out of inference mode, or autograd could not keep them for the head's gradient
        return features if standardization is None else standardization.apply(features)

    def of_images(self, images: Images | ImageFiles, batch_size: int) -> Float[Tensor, "n d"]:
        """Features of whole images as in evaluation."""
        transform, compute = self._inputs.transform, self._inputs.compute
        with torch.inference_mode():
            batches = image_batches(images, torch.arange(len(images)), batch_size, compute.device)
            return torch.cat([apply(self._forward, batch, transform, compute).float() for batch in batches])


class _Training:
    """DaC's training with one seed; all that is random is drawn from it, in one order."""

    def __init__(self, train: Embeddings, erm: Head, inputs: DaCInputs, settings: Settings, seed: int):
        self._generator, self.settings, self.n = Generator().manual_seed(seed), settings, len(train.y)
        self._transform, self._compute, device = inputs.transform, inputs.compute, inputs.compute.device
        self.extractor = _Extractor(inputs, drifts=settings.batchnorm == "drift")
        images, packed, self._places = inputs.pixels("train"), inputs.masks.packed, torch.arange(len(train.y))
        if settings.balance_classes:
            smallest = int(torch.bincount(train.y, minlength=train.n_classes).min())
            rows = draw_per_class(train.y, smallest, train.n_classes, self._generator).sort()[0]
            train, packed, self.n = train.take(rows), packed[rows], len(rows)
            in_memory = isinstance(images, Images)
            images, self._places = (images.take(rows), self._places[: len(rows)]) if in_memory else (images, rows)
        (self._images,) = keep_on_device([images], self._compute)
        self._y, self._easy = train.y, easy_rows(erm, train, settings.quantile)
        self._features, self._labels = train.features.to(device), train.y.to(device)
        self._packed, self._size = packed.to(device), inputs.masks.size
        weight = nn.init.xavier_uniform_(torch.empty_like(erm.weight, device="cpu"), generator=self._generator)
        self._head = Head(*(t.to(device).requires_grad_() for t in (weight, torch.zeros(train.n_classes))))
        self._optimizer = torch.optim.Adam([self._head.weight, self._head.bias], lr=settings.lr)
        self._schedule = torch.optim.lr_scheduler.StepLR(self._optimizer, settings.lr_halved_every, 0.5)

    @property
    def head(self) -> Head:
        """A copy of the head as it is now, on the device."""
        return Head(self._head.weight.detach().clone(), self._head.bias.detach().clone())

    def epoch(self, report: Callable[[int], None]) -> dict[str, float]:
        """One pass over the images: mean losses, and the share of images that were selected."""
        size, device = self.settings.batch_size, self._compute.device
        order = torch.randperm(self.n, generator=self._generator)
        if self.extractor.drifts and len(order) % size == 1 and len(order) > 1:
            order = order[:-1]  # BatchNorm cannot learn from a batch of a single image
        batches, losses = image_batches(self._images, self._places[order], size, device), []
        for plan, batch in zip(self._plan(order), batches, strict=True):
            total, parts = self._losses(prepare(batch, self._transform), *plan)
            self._optimizer.zero_grad(set_to_none=True)
            total.backward()
            self._optimizer.step()
            losses.append(torch.stack([total, *parts]).detach())
            report(len(batch))
        report(self.n - len(order))  # those left out
        self._schedule.step()
        measured = torch.stack(losses).double()
        # of masked and composed images over the steps that had any
        means = [*measured[:, :2].mean(0).tolist(), *measured[:, 2:].nanmean(0).tolist()]
        names = ("loss", "batch_loss", "masked_loss", "composed_loss")
        return {**dict(zip(names, means, strict=True)), "selected": float(self._easy[order].double().mean())}

    def _plan(self, order: Int[Tensor, " m"]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each step the rows of its batch, the places of the selected ones in it, and their partners among these.

        All are moved to the device at once, so that within a step nothing waits for it.
        """
        rows = order.split(self.settings.batch_size)
        place = [self._easy[part].nonzero()[:, 0] for part in rows]
        partner = [draw_partners(self._y[part[at]], self._generator) for part, at in zip(rows, place, strict=True)]

        def moved(parts: Sequence[Tensor]) -> Sequence[Tensor]:
            return torch.cat(list(parts)).to(self._compute.device).split([len(part) for part in parts])

        return zip(*map(moved, (rows, place, partner)), strict=True)

    def _losses(
        self, shown: Float[Tensor, "b 3 h w"], rows: Int[Tensor, " b"], place: Int[Tensor, " k"],
        partner: Int[Tensor, " k"],
    ) -> tuple[Float[Tensor, ""], list[Float[Tensor, ""]]]:  # fmt: skip
        """The loss of a step, and its parts: batch, masked, composed; NaN where there was no such image."""
        parts = [shown] if self.extractor.drifts else []
        if len(place):
            kept = unpack(self._packed[rows[place]], self._size) ^ self.settings.invert
            parts += compose(shown[place], kept, partner, shown.mean((0, 2, 3)))
        # those of whole images are known where BatchNorm is frozen
        features = [] if self.extractor.drifts else [self._features[rows]]
        features += [self.extractor(torch.cat(parts))] if parts else []
        y, logits = self._labels[rows], self._head.logits(torch.cat(features))
        loss = cross_entropy(logits, torch.cat([y, y[place], y[place]]), reduction="none")
        batch, masked, composed = (part.mean() for part in loss.split([len(y), len(place), len(place)]))
        total = batch + self.settings.alpha * (masked + composed) if len(place) else batch
        return total, [batch, masked, composed]

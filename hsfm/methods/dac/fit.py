"""DaC, decompose and compose: a head retrained on images recomposed of parts of several.

Noohdani et al., "Decompose-and-Compose: A Compositional Approach to Mitigating Spurious Correlation" (CVPR 2024). What
a mask keeps of an image is taken to be its object; it is shown alone, and in what is left of an image of another class.

Letters: n images, b of a batch, k of these selected, d features, c classes. With images x, masks m, the batch's mean
color mu and a partner j of another class for each selected i:

    masked   = x_i m_i + (1 - m_i) mu
    composed = x_i m_i + (1 - m_i) (1 - m_j) x_j + (1 - m_i) m_j mu

both of the class of i. The loss is CE(batch) + alpha CE(masked) + alpha CE(composed).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.core.metrics import accuracy_by, worst
from hsfm.core.progress import Progress
from hsfm.data.pixels import ImageFiles, Images, image_batches, keep_on_device
from hsfm.data.transforms import apply, prepare, shape_after
from hsfm.features.embeddings import Embeddings
from hsfm.features.standardize import Standardization
from hsfm.heads.head import Head
from hsfm.methods.dac.masks import Masks, unpack
from hsfm.models.backbone import Network

log = logging.getLogger(__name__)

SELECT_BY = {
    "worst_group": "the epoch with the best validation worst group, then average",
    "worst_class": "the epoch with the best validation worst class, then average",
}
BATCHNORM = ("frozen", "drift")


@dataclass(frozen=True)
class Result:
    head: Head  # weight [c d], bias [c], of the kept epoch
    kept_epoch: int  # from 1
    history: pd.DataFrame
    network: Network | None  # with the head, whose features it is for; None: those of the embeddings


def fit_dac(
    network: Network,
    train: Embeddings,
    val: Embeddings,
    erm: Head,
    masks: Masks,
    pixels: Callable[[str], Images | ImageFiles],
    standardization: Standardization | None = None,
    *,
    seed: int,
    alpha: float,
    quantile: float,
    batch_size: int,
    epochs: int,
    lr: float,
    lr_halved_every: int,
    invert: bool,
    batchnorm: str,
    balance_classes: bool,
    select_by: str,
    transform: Mapping[str, Any],
    compute: Compute,
) -> Result:
    """A head fitted by DaC on the features of `network`.

    train, val: embeddings of that network's images. erm: the head that says which images are easy. masks: of train,
    row by row. pixels: the images of a split, row by row as in its embeddings. standardization: of the embeddings.

    alpha: weight of the masked and of the composed images. quantile: share of the training images, those with the
    lowest loss under `erm`, that may be masked and composed. lr: of Adam, halved after every `lr_halved_every` epochs.
    invert: keep what the masks leave out. batchnorm: `frozen` leaves the features as they are, so that those of whole
    images come from the embeddings; `drift` lets BatchNorm normalize by the batch and its running statistics follow, as
    the authors' code does: the features move, and `network` with them. balance_classes: train on as many images of each
    class as the smallest has, drawn from `seed`. select_by: worst_group is the only one that reads group labels, those
    of val.

    History columns: epoch (from 1), loss, batch_loss, masked_loss, composed_loss (means over the steps that had such
    images), selected (share of the images), val_average, val_worst_group (NaN where no group is known),
    val_worst_class, kept.

    Raises ValueError for an unknown batchnorm or select_by, for drift without BatchNorm, for masks of another size,
    where train or val is the test split, and where worst_group lacks an attribute of val.
    """
    for part in (train, val):
        part.refuse_test("DaC")
    if select_by not in SELECT_BY:
        raise ValueError(f"select_by: {select_by!r} is unknown; allowed are {', '.join(SELECT_BY)}")
    if select_by == "worst_group":
        val.require_attributes("DaC with select_by: worst_group")
    generator = Generator().manual_seed(seed)
    extractor = _Extractor(network, transform, compute, standardization, batchnorm)
    images, places = pixels("train"), torch.arange(len(train.y))
    if balance_classes:
        rows = _balanced_rows(train.y, train.n_classes, generator)
        train, masks = train.take(rows), masks.of([train.image_id[i] for i in rows.tolist()])
        images, places = (images.take(rows), places[: len(rows)]) if isinstance(images, Images) else (images, rows)
    (images,) = keep_on_device([images], compute)
    first = next(iter(image_batches(images, places[:1], 1, compute.device)))
    masks.require_size(shape_after(first, transform["resize"], transform["crop"]))
    easy = easy_rows(erm, train, quantile)
    head = _fresh_head(train, generator, compute.device)
    optimizer = torch.optim.Adam(head, lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, lr_halved_every, 0.5)
    step = _Step(train, masks, extractor, alpha, invert, compute)
    held_out = pixels("val") if extractor.drifts else None

    history, kept = [], None
    with compute.repeatable(), Progress("DaC", epochs * len(train.y), "image") as bar:
        for epoch in range(1, epochs + 1):
            bar.now(f"DaC, epoch {epoch} of {epochs}")
            order = torch.randperm(len(train.y), generator=generator)
            if extractor.drifts and len(order) % batch_size == 1 and len(order) > 1:
                order = order[:-1]  # BatchNorm cannot learn from a batch of a single image
            plans = _plan(order, train.y, easy, batch_size, generator, compute.device)
            losses = []
            batches = image_batches(images, places[order], batch_size, compute.device)
            for plan, batch in zip(plans, batches, strict=True):
                loss_of_step = step(Head(*head), prepare(batch, transform), plan)
                optimizer.zero_grad(set_to_none=True)
                loss_of_step.total.backward()
                optimizer.step()
                losses.append(loss_of_step.detached())
                bar.update(len(batch))
            bar.update(len(train.y) - len(order))  # those left out
            schedule.step()
            row = {
                "epoch": epoch,
                **_means(torch.stack(losses)),
                "selected": float(easy[order].double().mean()),
                **_evaluate(Head(*(t.detach() for t in head)), val, extractor, held_out, batch_size),
            }
            if not np.isfinite(row["loss"]):
                raise ValueError(f"DaC: the loss is {row['loss']} in epoch {epoch}; lower lr (now {lr})")
            history.append(row)
            score = (row[f"val_{select_by}"], row["val_average"])
            if kept is None or score > kept[0]:
                kept = score, epoch, [t.detach().cpu().clone() for t in head], extractor.statistics()
            log.info(
                "seed %d, epoch %d of %d: loss %.4f, validation average %.1f %%, worst group %.1f %%",
                seed, epoch, epochs, row["loss"], 100 * row["val_average"], 100 * row["val_worst_group"],
            )  # fmt: skip
    _, kept_epoch, tensors, statistics = kept
    frame = pd.DataFrame(history)
    return Result(
        head=Head(*tensors),
        kept_epoch=kept_epoch,
        history=frame.assign(seed=seed, kept=frame["epoch"] == kept_epoch),
        network=extractor.drifted(statistics, Head(*tensors)),
    )


# Compositions ---------------------------------------------------------------------------------------------------------


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
    x: Float[Tensor, "k 3 h w"],
    m: Bool[Tensor, "k h w"],
    partner: Int[Tensor, " k"],
    mean: Float[Tensor, " 3"],
) -> tuple[Float[Tensor, "k 3 h w"], Float[Tensor, "k 3 h w"]]:
    """Masked images, and images composed with their partners; `mean` fills what neither shows."""
    m, mean = m[:, None], mean.view(1, 3, 1, 1)
    elsewhere = torch.where(m[partner], mean, x[partner])
    return torch.where(m, x, mean), torch.where(m, x, elsewhere)


# Training -------------------------------------------------------------------------------------------------------------


def easy_rows(erm: Head, train: Embeddings, quantile: float) -> Bool[Tensor, " n"]:
    """Which images DaC may mask and compose: the share `quantile` of those with the lowest loss under ERM's head."""
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    return loss <= float(np.quantile(loss.numpy(), quantile))


def _balanced_rows(y: Int[Tensor, " n"], n_classes: int, generator: Generator) -> Int[Tensor, " m"]:
    """As many random rows of each class as the smallest has, ascending."""
    smallest = int(torch.bincount(y, minlength=n_classes).min())
    by_class = [(y == label).nonzero()[:, 0] for label in range(n_classes)]
    drawn = [rows[torch.randperm(len(rows), generator=generator)[:smallest]] for rows in by_class]
    return torch.sort(torch.cat(drawn))[0]


def _fresh_head(train: Embeddings, generator: Generator, device: torch.device) -> list[nn.Parameter]:
    weight = torch.empty(train.n_classes, train.features.shape[1])
    nn.init.xavier_uniform_(weight, generator=generator)
    return [nn.Parameter(t.to(device)) for t in (weight, torch.zeros(train.n_classes))]


@dataclass(frozen=True)
class _Losses:
    total: Float[Tensor, ""]
    parts: tuple[Float[Tensor, ""], ...]  # batch, masked, composed; NaN where there was no such image

    def detached(self) -> Float[Tensor, " 4"]:
        return torch.stack([self.total, *self.parts]).detach()


@dataclass(frozen=True)
class _Plan:
    """Rows, selected images and partners of one step."""

    rows: Int[Tensor, " b"]  # of train; these three lie on the device
    place: Int[Tensor, " k"]  # of the selected ones in the batch
    partner: Int[Tensor, " k"]  # of each selected one, among them
    rows_on_cpu: Int[Tensor, " b"]
    place_on_cpu: Int[Tensor, " k"]


def _plan(
    order: Int[Tensor, " m"],
    y: Int[Tensor, " n"],
    easy: Bool[Tensor, " n"],
    batch_size: int,
    generator: Generator,
    device: torch.device,
) -> list[_Plan]:
    """The steps of an epoch; drawn and moved at once, so that within a step nothing waits for the device."""
    rows = order.split(batch_size)
    place = [easy[part].nonzero()[:, 0] for part in rows]
    partner = [draw_partners(y[part[chosen]], generator) for part, chosen in zip(rows, place, strict=True)]

    def moved(parts: Sequence[Tensor]) -> Sequence[Tensor]:
        return torch.cat(list(parts)).to(device).split([len(part) for part in parts])

    return [_Plan(*of_step) for of_step in zip(*map(moved, (rows, place, partner)), rows, place, strict=True)]


class _Step:
    """The loss of a head on one batch."""

    def __init__(
        self, train: Embeddings, masks: Masks, extractor: "_Extractor", alpha: float, invert: bool, compute: Compute
    ):
        self._y = train.y.to(compute.device)
        # where they fit; else they are chosen on the CPU, and copied batch by batch
        self._features, self._packed = (
            tensor.to(compute.device) if compute.keeps(tensor.nbytes) else tensor
            for tensor in (train.features, masks.packed)
        )
        self._size, self._invert = masks.size, invert
        self._extractor, self._alpha, self._device = extractor, alpha, compute.device

    def __call__(self, head: Head, shown: Float[Tensor, "b 3 h w"], plan: _Plan) -> _Losses:
        """shown: what the network sees of the batch."""
        y, y_selected = self._y[plan.rows], self._y[plan.rows[plan.place]]
        parts = [shown] if self._extractor.drifts else []
        if len(plan.place):
            chosen = plan.rows_on_cpu[plan.place_on_cpu], plan.rows[plan.place]
            kept = unpack(self._take(self._packed, *chosen), self._size)
            parts += compose(shown[plan.place], ~kept if self._invert else kept, plan.partner, shown.mean((0, 2, 3)))
        features = self._extractor(torch.cat(parts)) if parts else None
        if not self._extractor.drifts:  # those of whole images are known
            known = self._take(self._features, plan.rows_on_cpu, plan.rows)
            features = known if features is None else torch.cat([known, features])
        labels = torch.cat([y, y_selected, y_selected])
        loss = cross_entropy(head.logits(features), labels, reduction="none")
        batch, masked, composed = (part.mean() for part in loss.split([len(y), len(y_selected), len(y_selected)]))
        total = batch + self._alpha * (masked + composed) if len(plan.place) else batch
        return _Losses(total, (batch, masked, composed))

    def _take(self, tensor: Tensor, on_cpu: Int[Tensor, " m"], on_device: Int[Tensor, " m"]) -> Tensor:
        """Rows of a tensor, on the device, wherever it lies itself."""
        if tensor.device == self._device:
            return tensor[on_device]
        return tensor[on_cpu].to(self._device)


class _Extractor:
    """Features of what a network sees, with BatchNorm as it is, row by row, or with one that follows the batches."""

    def __init__(
        self,
        network: Network,
        transform: Mapping[str, Any],
        compute: Compute,
        standardization: Standardization | None,
        batchnorm: str,
    ):
        if batchnorm not in BATCHNORM:
            raise ValueError(f"batchnorm: {batchnorm!r} is unknown; allowed are {', '.join(BATCHNORM)}")
        self.drifts = batchnorm == "drift"
        self._network = compute.prepare(network).eval()
        self._norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if self.drifts and not self._norms:
            raise ValueError("batchnorm: drift was asked for, but this backbone has no BatchNorm; set it to frozen")
        if self.drifts and standardization is not None:
            raise ValueError("batchnorm: drift moves the features, which standardised ones cannot follow; set frozen")
        self._forward = compute.compiled(network.features)
        self._standardization, self._transform, self._compute = standardization, transform, compute

    def __call__(self, shown: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features for training a head, which no gradient passes."""
        for norm in self._norms if self.drifts else ():
            norm.train()
        whole = [slice(0, len(shown))]  # where rows depend on one another
        with torch.inference_mode(), self._compute.autocast():
            parts = whole if self.drifts else self._compute.parts(len(shown), *shown.shape[-2:])
            features = torch.cat([self._forward(shown[part]).float() for part in parts])
        for norm in self._norms if self.drifts else ():
            norm.eval()
        # out of inference mode, or autograd could not keep them for the head's gradient
        return self._standardize(features.clone())

    def of_images(self, images: Images | ImageFiles, batch_size: int) -> Float[Tensor, "n d"]:
        """Features of whole images as in evaluation."""
        with torch.inference_mode():
            batches = image_batches(images, torch.arange(len(images)), batch_size, self._compute.device)
            return torch.cat([apply(self._forward, batch, self._transform, self._compute).float() for batch in batches])

    def _standardize(self, features: Tensor) -> Tensor:
        return features if self._standardization is None else self._standardization.apply(features)

    def statistics(self) -> dict[str, Tensor]:
        """A copy of BatchNorm's running statistics; empty where it is frozen."""
        if not self.drifts:
            return {}
        return {name: buffer.detach().clone() for name, buffer in self._network.named_buffers()}

    def drifted(self, statistics: Mapping[str, Tensor], head: Head) -> Network | None:
        """The network with these statistics and this head; None where its features are those that were given."""
        if not self.drifts:
            return None
        self._network.load_state_dict(statistics, strict=False)
        self._network.fc.load_state_dict({"weight": head.weight, "bias": head.bias})
        return self._network


def _means(losses: Float[Tensor, "steps 4"]) -> dict[str, float]:
    """Means over the steps; of masked and composed images over those that had any."""
    losses = losses.double()
    means = [*losses[:, :2].mean(0).tolist(), *losses[:, 2:].nanmean(0).tolist()]
    return dict(zip(("loss", "batch_loss", "masked_loss", "composed_loss"), means, strict=True))


def _evaluate(
    head: Head, val: Embeddings, extractor: _Extractor, images: Images | ImageFiles | None, batch_size: int
) -> dict[str, float]:
    """Accuracies on validation; images: whose features have to be computed, None where they are known."""
    features = val.features.to(head.weight.device) if images is None else extractor.of_images(images, batch_size)
    correct = head.predict(features).cpu() == val.y
    known = bool((val.group >= 0).any())
    return {
        "val_average": float(correct.double().mean()),
        "val_worst_group": float(worst(accuracy_by(correct, val.group, val.n_groups))) if known else float("nan"),
        "val_worst_class": float(worst(accuracy_by(correct, val.y, val.n_classes))),
    }

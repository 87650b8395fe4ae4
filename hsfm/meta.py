"""HSFM: learn edits of a few support features so that a head adapted on them does well on hard samples.

Source: arXiv 2603.29313. Letters: n support rows, d features, c classes, m hard samples, s seeds. The paper's symbols
stand beside the settings of `train`. This is the plain form: one seed at a time, the inner loop in autograd's graph.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from hsfm.embeddings import Embeddings, check_same_origin
from hsfm.files import write_parquet
from hsfm.hard_set import HardSet, choose, losses
from hsfm.head import Head, stack
from hsfm.metrics import accuracy_by, worst

log = logging.getLogger(__name__)

REFRESH = ("epoch", "never")
SELECT_BY = ("worst_group", "worst_class", "hard_loss")
CLIP_NORM = 10.0
DEAD_SHARE = 0.005  # a kept head that changes fewer validation predictions than this has hardly moved


@dataclass(frozen=True)
class MetaResult:
    head: Head  # the kept heads, weight [s c d], bias [s c]
    seeds: tuple[int, ...]
    kept_epoch: Int[Tensor, " s"]  # from 1
    history: pd.DataFrame  # one row per seed and epoch, see `train`
    support_rows: Int[Tensor, "s n"]  # rows of the training embeddings
    support_id: tuple[tuple[str, ...], ...]  # their image ids, per seed
    support_y: Int[Tensor, "s n"]
    support_before: Float[Tensor, "s n d"]  # the training features
    support_after: Float[Tensor, "s n d"]  # as edited at the kept epoch
    head_change: Float[Tensor, " s"]  # |W - W0| / |W0| of the kept head
    moved: Float[Tensor, " s"]  # share of validation predictions that differ from the ERM head's


@dataclass(frozen=True)
class _Settings:
    support_per_class: int
    inner_steps: int
    inner_lr: float
    outer_lr: float
    support_steps: int
    hard_per_class: int
    epochs: int
    refresh: str
    select_by: str


def train(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    *,
    seeds: Sequence[int],
    support_per_class: int,
    inner_steps: int,
    inner_lr: float,
    outer_lr: float,
    support_steps: int,
    hard_per_class: int,
    epochs: int,
    refresh: str = "epoch",
    select_by: str = "worst_group",
    first_hard_set: HardSet | None = None,
) -> MetaResult:
    """Meta-train the support of each seed and return the heads adapted on it.

    train, val: embeddings of one checkpoint. Features and classes of both are trained on, val being the pool of hard
    samples. Group labels of val serve `select_by="worst_group"` alone, and with the attributes of train the diagnosis
    `minority_share`. head: ERM's, weight `[c d]`.

    support_per_class: support rows drawn per class; a smaller class gives all it has. inner_steps (T) and inner_lr
    (alpha): gradient steps of the head on the support. outer_lr (eta): Adam's, on the support. support_steps (K_H):
    meta-gradient steps per epoch; 0 leaves the support as drawn. hard_per_class (K_hard): hard samples per class.
    refresh: choose the hard set anew each `epoch` (the paper) or `never`. select_by: keep the epoch with the best
    validation `worst_group` (the paper) or `worst_class` accuracy, or the lowest mean loss on the head's own hard set
    (`hard_loss`); the later epoch wins a tie. first_hard_set: the choice of the first epoch, which is otherwise made
    here by the same rule.

    The history holds per seed and epoch: outer_loss (mean over the epoch's meta-gradient steps, natural log; NaN
    without any), hard_loss (of the epoch's head on its own hard set), val_average, val_worst_group (NaN without
    groups), val_worst_class, minority_share (of the epoch's hard set; NaN where attributes are unknown),
    pool_minority_share (the same of all of val) and kept.

    Raises ValueError for a setting out of range, embeddings or a head that do not belong together, and missing groups
    where they select.
    """
    settings = _Settings(
        support_per_class, inner_steps, inner_lr, outer_lr, support_steps, hard_per_class, epochs, refresh, select_by
    )
    _check(train, val, head, seeds, settings)
    for label, count in enumerate(torch.bincount(train.y, minlength=train.n_classes).tolist()):
        if count < support_per_class:
            name = train.class_names[label]
            log.warning("support_per_class is %d; class %s has %d images: taking all", support_per_class, name, count)
    minority = minority_rows(train, val)
    runs = [
        _train_one(train, val, head, seed, settings, first_hard_set, minority)
        for seed in tqdm(seeds, "HSFM", unit="seed", disable=None)
    ]
    erm_predictions = head.predict(val.features)
    result = MetaResult(
        head=stack([run.head for run in runs]),
        seeds=tuple(seeds),
        kept_epoch=torch.tensor([run.epoch for run in runs]),
        history=pd.concat([run.history for run in runs], ignore_index=True),
        support_rows=torch.stack([run.rows for run in runs]),
        support_id=tuple(tuple(train.image_id[i] for i in run.rows.tolist()) for run in runs),
        support_y=torch.stack([train.y[run.rows] for run in runs]),
        support_before=torch.stack([train.features[run.rows] for run in runs]),
        support_after=torch.stack([run.support for run in runs]),
        head_change=torch.stack([(run.head.weight - head.weight).norm() / head.weight.norm() for run in runs]),
        moved=torch.stack([(run.head.predict(val.features) != erm_predictions).float().mean() for run in runs]),
    )
    kept = result.history[result.history["kept"]]
    for seed, epoch, average, worst_group in zip(
        kept["seed"], kept["epoch"], 100 * kept["val_average"], 100 * kept["val_worst_group"], strict=True
    ):
        log.info("seed %d: kept epoch %d, validation average %.1f, worst group %.1f", seed, epoch, average, worst_group)
    for seed, moved, change in zip(seeds, result.moved.tolist(), result.head_change.tolist(), strict=True):
        if moved < DEAD_SHARE:
            log.warning(
                "seed %d: the head hardly moved (%.1f %% of the validation predictions differ from ERM's, the weights "
                "changed by %.1f %%). The support may be dead: it holds no minority image, or ERM fits it already. "
                "Raise support_per_class or inner_lr.",
                seed, 100 * moved, 100 * change,
            )  # fmt: skip
    return result


@dataclass(frozen=True)
class _Run:
    head: Head
    epoch: int
    history: pd.DataFrame
    rows: Int[Tensor, " n"]
    support: Float[Tensor, "n d"]


def _train_one(
    train: Embeddings,
    val: Embeddings,
    erm: Head,
    seed: int,
    settings: _Settings,
    first_hard_set: HardSet | None,
    minority: Bool[Tensor, " n"] | None,
) -> _Run:
    """The outer loop of one seed: methods and order as in the paper's Algorithm 1."""
    rows = draw_support(train.y, settings.support_per_class, train.n_classes, Generator().manual_seed(seed))
    support = train.features[rows].clone().requires_grad_()
    support_y = train.y[rows]
    head = Head(erm.weight.clone().requires_grad_(), erm.bias.clone().requires_grad_())
    edit = torch.optim.Adam([support], lr=settings.outer_lr)
    adapt_head = torch.optim.Adam([head.weight, head.bias], lr=settings.inner_lr)

    hard = None if first_hard_set is None else first_hard_set.chosen
    history, kept, best = [], None, None
    for epoch in range(1, settings.epochs + 1):
        if hard is None or (settings.refresh == "epoch" and epoch > 1):
            hard = _hard_rows(head, val, settings.hard_per_class)
        outer_losses = []
        for _ in range(settings.support_steps):
            outer_loss, gradient = meta_gradient(
                head, support, support_y, val.features[hard], val.y[hard],
                steps=settings.inner_steps, lr=settings.inner_lr,
            )  # fmt: skip
            support.grad = gradient
            torch.nn.utils.clip_grad_norm_([support], CLIP_NORM)
            edit.step()
            outer_losses.append(outer_loss)
        fixed = support.detach()
        for _ in range(settings.inner_steps):
            adapt_head.zero_grad()
            cross_entropy(head.logits(fixed), support_y).backward()
            adapt_head.step()

        scores = _validate(head, val, settings.hard_per_class)
        value = -scores["hard_loss"] if settings.select_by == "hard_loss" else scores[f"val_{settings.select_by}"]
        if best is None or value >= best:
            best, kept = value, (epoch, head.weight.detach().clone(), head.bias.detach().clone(), fixed.clone())
        history.append(
            {
                "seed": seed,
                "epoch": epoch,
                "outer_loss": float(torch.stack(outer_losses).mean()) if outer_losses else float("nan"),
                **scores,
                "minority_share": float("nan") if minority is None else float(minority[hard].double().mean()),
                "pool_minority_share": float("nan") if minority is None else float(minority.double().mean()),
            }
        )
    epoch, weight, bias, edited = kept
    frame = pd.DataFrame(history)
    frame["kept"] = frame["epoch"] == epoch
    return _Run(head=Head(weight, bias), epoch=epoch, history=frame, rows=rows, support=edited)


def draw_support(y: Int[Tensor, " n"], per_class: int, n_classes: int, generator: Generator) -> Int[Tensor, " k"]:
    """Rows of `per_class` random images of each class, or all of a smaller one; `generator` is on the CPU.

    Classes ascend; within each, one permutation of its rows in table order is drawn and cut.
    """
    chosen = []
    for label in range(n_classes):
        members = (y == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:per_class].to(members.device)])
    return torch.cat(chosen)


def adapt(head: Head, features: Float[Tensor, "n d"], y: Int[Tensor, " n"], *, steps: int, lr: float) -> Head:
    """The head after `steps` plain gradient-descent steps on mean cross-entropy, differentiable in `features`."""
    weight, bias = head.weight, head.bias
    if not weight.requires_grad:
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    for _ in range(steps):
        loss = cross_entropy(Head(weight, bias).logits(features), y)
        weight_gradient, bias_gradient = torch.autograd.grad(loss, (weight, bias), create_graph=True)
        weight, bias = weight - lr * weight_gradient, bias - lr * bias_gradient
    return Head(weight, bias)


def meta_gradient(
    head: Head,
    support: Float[Tensor, "n d"],
    support_y: Int[Tensor, " n"],
    hard: Float[Tensor, "m d"],
    hard_y: Int[Tensor, " m"],
    *,
    steps: int,
    lr: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
    """Mean cross-entropy on the hard samples of the head adapted on the support, and its gradient in the support.

    The gradient goes through all `steps` of the adaptation (arXiv 2603.29313, the outer problem of its bilevel form).
    """
    support = support.detach().requires_grad_()
    adapted = adapt(Head(head.weight.detach(), head.bias.detach()), support, support_y, steps=steps, lr=lr)
    outer_loss = cross_entropy(adapted.logits(hard), hard_y)
    (gradient,) = torch.autograd.grad(outer_loss, support)
    return outer_loss.detach(), gradient


def minority_rows(train: Embeddings, val: Embeddings) -> Bool[Tensor, " n"] | None:
    """Which rows of val are minority: their attribute is rarer within their class than in all of train.

    None where an attribute of train or val is unknown.
    """
    if (train.attribute < 0).any() or (val.attribute < 0).any():
        return None
    count = torch.bincount(train.group, minlength=train.n_groups).view(train.n_classes, train.n_attributes)
    # p(a|y) < p(a), multiplied out so that equal shares compare as equal
    rarer = count * count.sum() < count.sum(dim=1, keepdim=True) * count.sum(dim=0, keepdim=True)
    return rarer[val.y, val.attribute]


def write_support(path: str | Path, result: MetaResult, train: Embeddings) -> None:
    """Write the support rows of every seed: seed, image_id, y, before and after the edits (`fixed_size_list[d]`)."""
    d = result.support_before.shape[-1]
    n = result.support_rows.shape[1]
    table = pa.table(
        {
            "seed": pa.array([seed for seed in result.seeds for _ in range(n)], pa.int64()),
            "image_id": pa.array([name for names in result.support_id for name in names], pa.string()),
            "y": pa.array(result.support_y.flatten().cpu().numpy(), pa.int32()),
            **{
                name: pa.FixedSizeListArray.from_arrays(pa.array(values.flatten().cpu().numpy()), d)
                for name, values in (("before", result.support_before), ("after", result.support_after))
            },
        }
    )
    metadata = {"dataset": train.dataset, "d": d, "class_names": train.class_names,
                "checkpoint_sha256": train.checkpoint_sha256}  # fmt: skip
    write_parquet(path, table, metadata)


@torch.no_grad()
def _hard_rows(head: Head, val: Embeddings, per_class: int) -> Bool[Tensor, " n"]:
    return choose(losses(head, val.features, val.y), val.y, per_class)


@torch.no_grad()
def _validate(head: Head, val: Embeddings, hard_per_class: int) -> dict[str, float]:
    loss = losses(head, val.features, val.y)
    correct = head.predict(val.features) == val.y
    groups = accuracy_by(correct, val.group, val.n_groups)
    return {
        "hard_loss": float(loss[choose(loss, val.y, hard_per_class)].mean()),
        "val_average": float(correct.double().mean()),
        "val_worst_group": float("nan") if groups.isnan().all() else float(worst(groups)),
        "val_worst_class": float(worst(accuracy_by(correct, val.y, val.n_classes))),
    }


def _check(train: Embeddings, val: Embeddings, head: Head, seeds: Sequence[int], settings: _Settings) -> None:
    check_same_origin(train, val)
    expected = (train.n_classes, train.features.shape[1])
    if head.weight.shape != expected:
        raise ValueError(f"head: weight is {list(head.weight.shape)}, expected {list(expected)} (classes, features)")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is empty or repeats a seed")
    for name in ("support_per_class", "inner_steps", "hard_per_class", "epochs"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name}: {getattr(settings, name)} is not a positive whole number")
    if settings.support_steps < 0:
        raise ValueError(f"support_steps: {settings.support_steps} is negative; 0 leaves the support as drawn")
    for name in ("inner_lr", "outer_lr"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise ValueError(f"{name}: {getattr(settings, name)} is not a positive number")
    for name, allowed in (("refresh", REFRESH), ("select_by", SELECT_BY)):
        if getattr(settings, name) not in allowed:
            raise ValueError(f"{name}: {getattr(settings, name)!r} is unknown; allowed are {', '.join(allowed)}")
    if settings.select_by == "worst_group":
        val.require_attributes('select_by="worst_group"')

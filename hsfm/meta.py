"""HSFM: learn edits of a few support features so that a head adapted on them does well on hard samples.

Source: arXiv 2603.29313. Letters: r runs, n support rows, d features, c classes, m hard samples, e epochs. The paper's
symbols stand beside the settings of `train`. All runs go side by side as one more tensor axis, and nothing inside an
epoch waits for the device; benchmarks/autograd_loop.py is the same procedure one run at a time, in autograd.
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
from torch.nn.functional import cross_entropy, one_hot
from torch.optim.adam import adam
from tqdm import tqdm

from hsfm.embeddings import Embeddings, check_same_origin
from hsfm.files import write_parquet
from hsfm.hard_set import HardSet, hardest
from hsfm.head import Head
from hsfm.meta_gradient import meta_gradient
from hsfm.metrics import accuracy_by, worst

log = logging.getLogger(__name__)

REFRESH = ("epoch", "never")
SELECT_BY = ("worst_group", "worst_class", "hard_loss")
CLIP_NORM = 10.0
DEAD_SHARE = 0.005  # a kept head that changes fewer validation predictions than this has hardly moved
MEMORY_BUDGET = 4 * 2**30  # bytes


@dataclass(frozen=True)
class Run:
    """What may differ between runs that go side by side."""

    seed: int
    inner_lr: float  # alpha
    outer_lr: float  # eta
    clip_norm: float = CLIP_NORM


@dataclass(frozen=True)
class Shared:
    """What runs that go side by side have in common: everything that sets the shape of their tensors."""

    support_per_class: int
    inner_steps: int  # T
    support_steps: int  # K_H
    hard_per_class: int  # K_hard
    epochs: int
    refresh: str = "epoch"
    select_by: str = "worst_group"


@dataclass(frozen=True)
class MetaResult:
    head: Head  # the kept heads, weight [r c d], bias [r c]
    runs: tuple[Run, ...]
    kept_epoch: Int[Tensor, " r"]  # from 1
    history: pd.DataFrame  # one row per run and epoch, see `train`
    support_rows: Int[Tensor, "r n"]  # rows of the training embeddings
    support_id: tuple[tuple[str, ...], ...]  # their image ids, per run
    support_y: Int[Tensor, "r n"]
    support_before: Float[Tensor, "r n d"]  # the training features
    support_after: Float[Tensor, "r n d"]  # as edited at the kept epoch
    head_change: Float[Tensor, " r"]  # |W - W0| / |W0| of the kept head
    moved: Float[Tensor, " r"]  # share of validation predictions that differ from the ERM head's

    @property
    def dead(self) -> Bool[Tensor, " r"]:
        """Runs whose kept head hardly moved."""
        return self.moved < DEAD_SHARE

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


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
    clip_norm: float = CLIP_NORM,
    first_hard_set: HardSet | None = None,
    memory_budget: int = MEMORY_BUDGET,
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
    (`hard_loss`); the later epoch wins a tie. clip_norm: longest meta-gradient of a run's support. first_hard_set: the
    choice of the first epoch, which is otherwise made here by the same rule. memory_budget: bytes that runs side by
    side may take; more runs go one batch after the other.

    The history holds per seed and epoch: outer_loss (mean over the epoch's meta-gradient steps, natural log; NaN
    without any), hard_loss (of the epoch's head on its own hard set), val_average, val_worst_group (NaN without
    groups), val_worst_class, minority_share (of the epoch's hard set; NaN where attributes are unknown),
    pool_minority_share (the same of all of val) and kept.

    Raises ValueError for a setting out of range, embeddings or a head that do not belong together, and missing groups
    where they select.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: {list(seeds)} is empty or repeats a seed")
    runs = [Run(seed, inner_lr, outer_lr, clip_norm) for seed in seeds]
    shared = Shared(support_per_class, inner_steps, support_steps, hard_per_class, epochs, refresh, select_by)
    result = train_runs(train, val, head, runs, shared, first_hard_set=first_hard_set, memory_budget=memory_budget)
    _report(result)
    return result


def train_runs(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    runs: Sequence[Run],
    shared: Shared,
    *,
    first_hard_set: HardSet | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> MetaResult:
    """Meta-train many runs side by side; settings, history and errors as in `train`, whose `seed` may repeat here.

    The history's column `number` counts the runs. Each run is what it would be alone, up to rounding.
    """
    _check(train, val, head, runs, shared, first_hard_set)
    for label, count in enumerate(torch.bincount(train.y, minlength=train.n_classes).tolist()):
        if count < shared.support_per_class:
            log.warning(
                "support_per_class is %d; class %s has %d images: taking all",
                shared.support_per_class, train.class_names[label], count,
            )  # fmt: skip
    rows = torch.stack(
        [
            draw_support(train.y, shared.support_per_class, train.n_classes, Generator().manual_seed(run.seed))
            for run in runs
        ]
    )
    size = max(1, memory_budget // _bytes_per_run(train, val, rows.shape[1], shared))
    progress = tqdm(total=shared.epochs * len(range(0, len(runs), size)), desc="HSFM", unit="epoch", disable=None)
    with progress:
        batches = [
            _train_batch(train, val, head, runs[i : i + size], shared, rows[i : i + size], first_hard_set, progress)
            for i in range(0, len(runs), size)
        ]
    kept_epoch = torch.cat([b.kept_epoch for b in batches]).cpu()
    for run, epoch in zip(runs, kept_epoch.tolist(), strict=True):
        if epoch == 0:  # NaN is never the best
            raise ValueError(
                f"inner_lr {run.inner_lr}, outer_lr {run.outer_lr}: seed {run.seed} has a NaN in every epoch"
            )
    kept_head = Head(torch.cat([b.head.weight for b in batches]), torch.cat([b.head.bias for b in batches]))
    moved = kept_head.predict(val.features) != head.predict(val.features)
    return MetaResult(
        head=kept_head,
        runs=tuple(runs),
        kept_epoch=kept_epoch,
        history=_history(batches, runs),
        support_rows=rows,
        support_id=tuple(tuple(train.image_id[i] for i in chosen) for chosen in rows.tolist()),
        support_y=train.y[rows],
        support_before=train.features[rows],
        support_after=torch.cat([b.support for b in batches]),
        head_change=(kept_head.weight - head.weight).flatten(1).norm(dim=1) / head.weight.norm(),
        moved=moved.float().mean(dim=1),
    )


@dataclass(frozen=True)
class _Batch:
    head: Head
    support: Float[Tensor, "r n d"]
    kept_epoch: Int[Tensor, " r"]
    history: dict[str, Float[Tensor, "e r"]]


def _train_batch(
    train: Embeddings,
    val: Embeddings,
    erm: Head,
    runs: Sequence[Run],
    shared: Shared,
    rows: Int[Tensor, "r n"],
    first_hard_set: HardSet | None,
    progress: tqdm,
) -> _Batch:
    """The outer loop of some runs, in the order of the paper's Algorithm 1."""
    support = train.features[rows]  # [r n d], edited in place
    support_y = train.y[rows[0]]  # the same for every run: rows are drawn class by class
    weight, bias = (t.expand(len(runs), *t.shape).clone() for t in (erm.weight, erm.bias))
    edit = _Adam([support], [run.outer_lr for run in runs])
    adapt = _Adam([weight, bias], [run.inner_lr for run in runs])
    inner_lr, clip_norm = (
        torch.tensor([getattr(run, name) for run in runs], dtype=support.dtype, device=support.device)
        for name in ("inner_lr", "clip_norm")
    )
    judge = _Judge(train, val, shared)
    scores = judge(Head(weight, bias))
    hard_rows = scores.hard_rows if first_hard_set is None else judge.chosen(first_hard_set, len(runs))

    best = torch.full((len(runs),), -torch.inf, dtype=torch.float64, device=support.device)
    kept_epoch = torch.zeros(len(runs), dtype=torch.int64, device=support.device)
    kept = (weight.clone(), bias.clone(), support.clone())
    history: dict[str, list[Tensor]] = {}
    hard = None
    for epoch in range(1, shared.epochs + 1):
        if epoch > 1 and shared.refresh == "epoch":
            hard_rows, hard = scores.hard_rows, None
        if hard is None:
            hard, hard_y = val.features[hard_rows], val.y[hard_rows[0]]
        outer_losses = []
        for _ in range(shared.support_steps):
            outer = meta_gradient(weight, bias, support, support_y, hard, hard_y, steps=shared.inner_steps, lr=inner_lr)
            edit.step(_clip(outer.support, clip_norm))
            outer_losses.append(outer.loss)
        for _ in range(shared.inner_steps):
            adapt.step(*_head_gradient(weight, bias, support, support_y))

        scores = judge(Head(weight, bias))
        better = scores.value >= best  # a later tie wins
        best = torch.where(better, scores.value, best)
        kept_epoch = torch.where(better, epoch, kept_epoch)
        kept = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip((weight, bias, support), kept, strict=True)
        )
        record = {
            "outer_loss": torch.stack(outer_losses).mean(0) if outer_losses else torch.full_like(inner_lr, torch.nan),
            **scores.measures,
            "minority_share": judge.minority[hard_rows].mean(dim=1),
            "pool_minority_share": judge.minority.mean().expand(len(runs)),
        }
        for name, value in record.items():
            history.setdefault(name, []).append(value.double())
        progress.update()
    return _Batch(
        head=Head(kept[0], kept[1]),
        support=kept[2],
        kept_epoch=kept_epoch,
        history={name: torch.stack(values) for name, values in history.items()},
    )


class _Adam:
    """torch's Adam on tensors `[r ...]` whose runs have learning rates of their own; edits the tensors in place.

    Through torch's functional form: `Optimizer.step` spends as long on bookkeeping as a small step takes.
    """

    def __init__(self, tensors: Sequence[Tensor], rates: Sequence[float]):
        self._together = len(set(rates)) == 1  # runs with one rate are one tensor: fewer, larger operations
        self._rates = rates[:1] if self._together else rates
        self._tensors = self._by_rate(tensors)
        self._first = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._second = self._by_rate([torch.zeros_like(t) for t in tensors])
        self._steps = [[torch.zeros((), device=t.device) for t in tensors] for _ in self._rates]

    def step(self, *gradients: Tensor) -> None:
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


@dataclass(frozen=True)
class _Scores:
    value: Float[Tensor, " r"]  # what the epoch is chosen by; higher is better
    hard_rows: Int[Tensor, "r m"]  # the head's hard set
    measures: dict[str, Float[Tensor, " r"]]


class _Judge:
    """Scores heads on val and finds their hard sets; what does not change between epochs is prepared once."""

    def __init__(self, train: Embeddings, val: Embeddings, shared: Shared):
        self._val, self._shared = val, shared
        self._class_rows = [(val.y == label).nonzero().squeeze(1) for label in range(val.n_classes)]
        self._grouped = bool((val.group >= 0).any())
        minority = minority_rows(train, val)
        unknown = torch.full(val.y.shape, torch.nan, dtype=torch.float64, device=val.y.device)
        self.minority = unknown if minority is None else minority.double()

    def __call__(self, head: Head) -> _Scores:
        val, shared = self._val, self._shared
        logits = head.logits(val.features)  # [r n c]
        y = val.y.expand(logits.shape[:-1])
        loss = cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
        correct = logits.argmax(-1) == y
        rows = hardest(loss, self._class_rows, shared.hard_per_class)
        groups = accuracy_by(correct, val.group, val.n_groups)
        measures = {
            "hard_loss": loss.gather(1, rows).double().mean(1),
            "val_average": correct.double().mean(1),
            "val_worst_group": worst(groups) if self._grouped else torch.full_like(groups[:, 0], torch.nan),
            "val_worst_class": worst(accuracy_by(correct, val.y, val.n_classes)),
        }
        if shared.select_by == "hard_loss":
            return _Scores(-measures["hard_loss"], rows, measures)
        return _Scores(measures[f"val_{shared.select_by}"], rows, measures)

    def chosen(self, hard_set: HardSet, n_runs: int) -> Int[Tensor, "r m"]:
        """The rows that a hard set chose, class by class, the same for every run."""
        chosen = hard_set.chosen.to(self._val.y.device)
        rows = torch.cat([members[chosen[members]] for members in self._class_rows])
        return rows.expand(n_runs, -1)


def _head_gradient(
    weight: Float[Tensor, "r c d"], bias: Float[Tensor, "r c"], support: Float[Tensor, "r n d"], y: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "r c d"], Float[Tensor, "r c"]]:
    """Of the mean cross-entropy on the support, in weight and bias."""
    probabilities = torch.baddbmm(bias.unsqueeze(1), support, weight.mT).softmax(-1)
    residual = (probabilities - one_hot(y, weight.shape[1])) / len(y)
    return residual.mT @ support, residual.sum(1)


def _clip(gradient: Float[Tensor, "r n d"], norm: Float[Tensor, " r"]) -> Float[Tensor, "r n d"]:
    """Each run's gradient scaled to at most its norm, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = (norm / (gradient.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1)
    # On the CPU one may look, and save two passes over the gradient; elsewhere looking would wait for the device.
    if gradient.device.type == "cpu" and bool((factor == 1).all()):
        return gradient
    return gradient * factor.view(-1, 1, 1)


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


def _bytes_per_run(train: Embeddings, val: Embeddings, n: int, shared: Shared) -> int:
    """An upper estimate: support, gradient, Adam's moments, the kept and first copies, hard features, val logits."""
    d, item = train.features.shape[1], train.features.element_size()
    m = shared.hard_per_class * val.n_classes
    return item * (9 * n * d + 2 * m * d + 6 * len(val.y) * val.n_classes + 2 * n * n)


def _history(batches: Sequence[_Batch], runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run and epoch, run after run."""
    columns = {name: torch.cat([b.history[name] for b in batches], dim=1).T for name in batches[0].history}  # [r e]
    kept_epoch = torch.cat([b.kept_epoch for b in batches])
    n_runs, epochs = columns["val_average"].shape
    epoch = torch.arange(1, epochs + 1, device=kept_epoch.device).expand(n_runs, -1)
    return pd.DataFrame(
        {
            "number": torch.arange(n_runs).repeat_interleave(epochs).numpy(),
            "seed": [run.seed for run in runs for _ in range(epochs)],
            "epoch": epoch.flatten().cpu().numpy(),
            **{name: values.flatten().cpu().numpy() for name, values in columns.items()},
            "kept": (epoch == kept_epoch.unsqueeze(1)).flatten().cpu().numpy(),
        }
    )


def _report(result: MetaResult) -> None:
    """One line per seed for the log, and a warning for a head that hardly moved."""
    kept = result.history[result.history["kept"]]
    for row, dead, moved, change in zip(
        kept.itertuples(), result.dead.tolist(), result.moved.tolist(), result.head_change.tolist(), strict=True
    ):
        log.info(
            "seed %d: kept epoch %d, validation average %.1f, worst group %.1f",
            row.seed, row.epoch, 100 * row.val_average, 100 * row.val_worst_group,
        )  # fmt: skip
        if dead:
            log.warning(
                "seed %d: the head hardly moved (%.1f %% of the validation predictions differ from ERM's, the weights "
                "changed by %.1f %%). The support may be dead: it holds no minority image, or ERM fits it already. "
                "Raise support_per_class or inner_lr.",
                row.seed, 100 * moved, 100 * change,
            )  # fmt: skip


def _check(
    train: Embeddings,
    val: Embeddings,
    head: Head,
    runs: Sequence[Run],
    shared: Shared,
    first_hard_set: HardSet | None,
) -> None:
    check_same_origin(train, val)
    expected = (train.n_classes, train.features.shape[1])
    if head.weight.shape != expected:
        raise ValueError(f"head: weight is {list(head.weight.shape)}, expected {list(expected)} (classes, features)")
    for what, dtype in (("val features", val.features.dtype), ("head", head.weight.dtype)):
        if dtype != train.features.dtype:
            raise ValueError(f"{what}: {dtype}, but the train features are {train.features.dtype}")
    for embeddings in (train, val):
        embeddings.refuse_test("HSFM")
    if first_hard_set is not None and first_hard_set.image_id != val.image_id:
        raise ValueError("first_hard_set: lists other images than val")
    if not runs:
        raise ValueError("runs: there is none")
    for name, least in (
        ("support_per_class", 1), ("inner_steps", 1), ("hard_per_class", 1), ("epochs", 1), ("support_steps", 0)
    ):  # fmt: skip
        value = getattr(shared, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: {value} is not a whole number from {least}")
    for name in ("inner_lr", "outer_lr", "clip_norm"):
        for run in runs:
            if not 0 < getattr(run, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(run, name)} is not a positive number")
    for name, allowed in (("refresh", REFRESH), ("select_by", SELECT_BY)):
        if getattr(shared, name) not in allowed:
            raise ValueError(f"{name}: {getattr(shared, name)!r} is unknown; allowed are {', '.join(allowed)}")
    if shared.select_by == "worst_group":
        val.require_attributes('select_by="worst_group"')

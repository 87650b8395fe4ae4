"""Accuracy of each method as the validation split becomes more biased.

Most methods learn from validation images, or choose by them. Where these are balanced over the groups, class labels
alone show what to learn; here the split is made more and more like a biased training split, at constant size.
"""

import itertools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Bool
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from hsfm.analysis.sweep import MEASURES, accuracies
from hsfm.core.progress import quiet, track
from hsfm.core.settings import SOME, FrozenSettings, Unlike
from hsfm.features.embeddings import Embeddings, NotApplicable, minority_rows
from hsfm.heads.hard_set import build
from hsfm.heads.head import Head
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.supervision import fit_supervised


class ValidationBiasSettings(FrozenSettings):
    """Every method on validation splits of growing bias."""

    agreement: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], SOME, Unlike] = Field(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
        description="Shares of majority images, those whose attribute is not rare in their class, in the subsamples.",
    )
    draws: PositiveInt = Field(10, description="Subsamples of each; the number of a draw is the seed of methods, too.")


SEES = {
    "none": "classes",
    "selection": "classes; groups to choose by",
    "hints": "classes; groups of some",
    "training": "classes, groups",
    "train": "classes; groups of train",
    "both": "classes, groups; those of train, too",
}
CAPPED = "hsfm_capped"


def measure_validation_bias(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    erm: Head,
    *,
    bias: ValidationBiasSettings,
    rows: Mapping[str, tuple[ModuleType, MethodSettings]],
    hard_per_class: int,
) -> pd.DataFrame:
    """One row per method, agreement and draw: test accuracies after fitting on a subsample of val.

    rows: methods by their names in tables. Each is given the attributes that its settings train on, and no others; the
    number of a draw is its seed. ERM's head, which sees no validation image, is the row `erm`. `hsfm_capped`, beside
    `hsfm`, has at most as many hard images per class as there are minority images, so that the hard set need not fill
    up with others: an oracle, for it counts true minority images. It is left out where HSFM tunes K_hard itself.
    hard_per_class: K_hard of all others.

    Columns: method, sees (what of validation), agreement, draw, n (images of the subsample), n_minority (of them),
    test_average, test_worst_group, test_worst_class, branch (of a method that has some: which it took), left_out (why a
    method could not be fitted; its accuracies are NaN). Raises ValueError for an agreement that cannot be had, a group
    that would keep a single image, and unknown attributes.
    """
    minority, sizes = check_labels(train, val, test, bias.agreement)
    of_erm, found = accuracies(Head(erm.weight[None], erm.bias[None]), test), []
    pairs = list(itertools.product(bias.agreement, range(bias.draws)))
    for share, draw in track(pairs, "validation bias", "subsample"):
        part = subsample(val, minority, sizes, share, Generator().manual_seed(draw))
        n_minority = int(minority_rows(train, part).sum())
        of_draw = {"agreement": share, "draw": draw, "n": len(part.y), "n_minority": n_minority}
        found.append(_row("erm", of_draw, {"sees": "nothing", "branch": "", "left_out": ""}, of_erm))
        for name, (method, settings) in rows.items():
            sizes_of_hard = {name: hard_per_class}
            if name == "hsfm" and settings.tune is None:  # else held-out rows choose K_hard
                sizes_of_hard[CAPPED] = max(1, min(hard_per_class, n_minority // part.n_classes))
            for row, k in sizes_of_hard.items():
                with quiet():
                    said, head = _fit(method, train, part, erm, settings, draw, k)
                if row == CAPPED and head is not None:
                    said["sees"] += "; number of minority images"
                found.append(_row(row, of_draw, said, {} if head is None else accuracies(head, test)))
    return pd.DataFrame(found)


def _row(
    name: str, of_draw: Mapping[str, Any], said: Mapping[str, str], scores: Mapping[str, Tensor]
) -> dict[str, Any]:
    measures = {f"test_{m}": float(scores[m][0]) if m in scores else float("nan") for m in MEASURES}
    return {"method": name, **of_draw, **said, **measures}


def check_labels(
    train: Embeddings, val: Embeddings, test: Embeddings, agreement: Sequence[float]
) -> tuple[Bool[Tensor, " n"], list[int]]:
    """Minority rows of val and images of each class in a subsample; ValueError as `measure_validation_bias`."""
    for split in (train, val, test):
        split.require_attributes("validation_bias")
    minority = minority_rows(train, val)
    return minority, class_sizes(val, minority, agreement)


def _fit(
    method: ModuleType, train: Embeddings, part: Embeddings, erm: Head, settings: MethodSettings, seed: int, k: int
) -> tuple[dict[str, str], Head | None]:
    """A method's head `[1 c d]`, and what is said about it; None where the subsample lacks what the method needs."""
    needs = {need: build(erm, part, per_class=k) for need in getattr(method, "NEEDS", ())}  # the hard set
    try:
        fit, labels = fit_supervised(method, train, part, erm, settings=settings, seeds=[seed], **needs)
    except NotApplicable as error:
        return {"sees": "", "branch": "", "left_out": str(error)}, None
    return {"sees": SEES[labels], "branch": str(fit.settings.get("branch", "")), "left_out": ""}, fit.head


def class_sizes(val: Embeddings, minority: Bool[Tensor, " n"], agreement: Sequence[float]) -> list[int]:
    """Images of each class in a subsample: the largest share of val at which every agreement can be had.

    Raises ValueError where a class has too few majority or minority images for that.
    """
    whole = torch.bincount(val.y, minlength=val.n_classes).tolist()
    few = torch.bincount(val.y[minority], minlength=val.n_classes).tolist()
    scales = [
        min(
            *((n - rare) / (share * n) for share in agreement if share > 0),
            *(rare / ((1 - share) * n) for share in agreement if share < 1),
        )
        for n, rare in zip(whole, few, strict=True)
    ]
    sizes = [int(min(scales) * n + 1e-9) for n in whole]
    if min(sizes) < 1:
        label = scales.index(min(scales))
        raise ValueError(
            f"agreement: {list(agreement)} cannot be had from {whole[label] - few[label]} majority and {few[label]} "
            f"minority images of class {val.class_names[label]} in {val.dataset} {val.split}"
        )
    return sizes


def subsample(
    val: Embeddings, minority: Bool[Tensor, " n"], sizes: Sequence[int], agreement: float, generator: Generator
) -> Embeddings:
    """Random images of each class, a share of `agreement` of which are not of the minority."""
    chosen = []
    for label, size in enumerate(sizes):
        common = round(agreement * size)
        for of_kind, count in ((~minority, common), (minority, size - common)):
            rows = ((val.y == label) & of_kind).nonzero().squeeze(1)
            chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return val.take(torch.cat(chosen).sort().values)

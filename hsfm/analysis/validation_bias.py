"""Accuracy of each method as the validation split becomes more biased.

All of LLR, DFR and HSFM learn from validation images. Where these are balanced over the groups, class labels alone show
what to learn; here the split is made more and more like a biased training split, at constant size.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Bool
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from hsfm.analysis.sweep import accuracies
from hsfm.core.progress import quiet, track
from hsfm.core.settings import SOME, FrozenSettings, Unlike
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.hard_set import build
from hsfm.heads.head import Head, stack
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import dfr, hsfm, llr


class ValidationBiasSettings(FrozenSettings):
    """Every method on validation splits of growing bias."""

    agreement: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], SOME, Unlike] = Field(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        description="Shares of majority images, those whose attribute is not rare in their class, in the subsamples.",
    )
    draws: PositiveInt = Field(10, description="Subsamples of each; the number of a draw is the seed of methods, too.")


SEES = {"none": "classes", "selection": "classes; groups choose the epoch", "training": "classes, groups"}


def measure_validation_bias(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    head: Head,
    *,
    bias: ValidationBiasSettings,
    settings: Mapping[str, MethodSettings],
    hard_per_class: int,
) -> pd.DataFrame:
    """One row per method, agreement and draw: test accuracies after fitting on a subsample of val.

    The number of a draw is also the method's seed. head: ERM's, which sees no validation image. settings: of `hsfm`,
    `dfr` and `llr`. `hsfm_capped` is HSFM with hard_per_class at most the number of minority images per class, so that
    the hard set need not fill up with others.

    Columns: method, sees (what of validation), agreement, draw, n (images of the subsample), n_minority (of them),
    test_average, test_worst_group, test_worst_class. Raises ValueError for an agreement that cannot be had, a group
    that would keep a single image, and unknown attributes.
    """
    for split in (train, val, test):
        split.require_attributes("validation_bias")
    minority = minority_rows(train, val)
    sizes = class_sizes(val, minority, bias.agreement)
    rows = []
    pairs = list(itertools.product(bias.agreement, range(bias.draws)))
    for share, draw in track(pairs, "validation bias", "subsample"):
        part = subsample(val, minority, sizes, share, Generator().manual_seed(draw))
        n_minority = int(minority_rows(train, part).sum())
        with quiet():
            heads, sees = _fit(train, part, head, draw, settings, (hard_per_class, n_minority // part.n_classes))
        scores = accuracies(stack(list(heads.values())), test)
        of_draw = {"agreement": share, "draw": draw, "n": len(part.y), "n_minority": n_minority}
        for i, method in enumerate(heads):
            measures = {f"test_{name}": float(values[i]) for name, values in scores.items()}
            rows.append({"method": method, "sees": sees[method], **of_draw, **measures})
    return pd.DataFrame(rows)


def _fit(
    train: Embeddings,
    part: Embeddings,
    erm: Head,
    seed: int,
    settings: Mapping[str, MethodSettings],
    k: tuple[int, int],
) -> tuple[dict[str, Head], dict[str, str]]:
    """Heads by method, and what each sees of validation. k: hard images per class, and their cap."""
    heads, sees = {"erm": erm}, {"erm": "nothing"}
    for name, method, needs in (
        ("llr", llr, {}),
        ("dfr", dfr, {}),
        ("hsfm", hsfm, {"hard_set": build(erm, part, per_class=k[0])}),
        ("hsfm_capped", hsfm, {"hard_set": build(erm, part, per_class=max(1, min(k)))}),
    ):
        of = settings[name.removesuffix("_capped")]
        fit, labels = fit_supervised(method, train, part, erm, settings=of, seeds=[seed], **needs)
        heads[name], sees[name] = fit.head[0], SEES[labels]
    return heads, sees


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

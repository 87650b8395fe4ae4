"""Accuracy of each method as the validation split becomes more biased.

All of LLR, DFR and HSFM learn from validation images. Where these are balanced over the groups, class labels alone show
what to learn; here the split is made more and more like a biased training split, at constant size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from hsfm.analysis.sweep import accuracies
from hsfm.core.progress import track
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.head import Head, stack
from hsfm.methods.dfr import fit_dfr, fit_llr
from hsfm.methods.hsfm.train import train as fit_hsfm

METHODS = ("erm", "llr", "dfr", "hsfm", "hsfm_capped")


def measure_validation_bias(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    head: Head,
    *,
    agreement: Sequence[float],
    draws: int,
    settings: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """One row per method, agreement and draw: test accuracies after fitting on a subsample of val.

    agreement: shares of majority images, see `subsample`. draws: subsamples of each; the number of a draw is also the
    method's seed. head: ERM's, which sees no validation image and gives the same row everywhere. settings: of `hsfm`,
    `dfr` and `llr`, as their functions take them; they are the same at every agreement. `hsfm_capped` is HSFM with
    hard_per_class at most the number of minority images per class, so that the hard set need not fill up with others.

    Columns: method, sees (what of validation), agreement, draw, n (images of the subsample), n_minority (of them),
    test_average, test_worst_group, test_worst_class. Raises ValueError before any fit for an agreement that cannot be
    had, a group that would keep a single image, unknown attributes, and fewer than one draw.
    """
    for split in (train, val, test):
        split.require_attributes("validation_bias")
    if draws < 1:
        raise ValueError(f"draws: {draws} is not a positive whole number")
    minority = minority_rows(train, val)
    sizes = class_sizes(val, minority, agreement)
    parts = {
        (share, draw): subsample(val, minority, sizes, share, Generator().manual_seed(draw))
        for share in agreement
        for draw in range(draws)
    }
    for (share, draw), part in parts.items():
        _check_groups(part, val, share, draw)
    sees = dict(zip(METHODS, ("nothing", "classes", "classes, groups", *[_sees(settings["hsfm"])] * 2), strict=True))
    rows = []
    for (share, draw), part in track(parts.items(), "validation bias", "subsample"):
        n_minority = int(minority_rows(train, part).sum())
        heads = _fit(train, part, head, draw, n_minority // part.n_classes, settings)
        scores = accuracies(stack([heads[method] for method in METHODS]), test)
        draw_columns = {"agreement": share, "draw": draw, "n": len(part.y), "n_minority": n_minority}
        rows += [
            {
                "method": method, "sees": sees[method], **draw_columns,
                **{f"test_{name}": float(values[i]) for name, values in scores.items()},
            }
            for i, method in enumerate(METHODS)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _fit(
    train: Embeddings, part: Embeddings, erm: Head, seed: int, most: int, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Head]:
    """Every method's head; most: hard images per class of `hsfm_capped`."""
    hsfm = dict(settings["hsfm"])
    capped = hsfm | {"hard_per_class": max(1, min(hsfm["hard_per_class"], most))}
    return {
        "erm": erm,
        "llr": fit_llr(part, seeds=[seed], progress=False, **settings["llr"])[0],
        "dfr": fit_dfr(part, seeds=[seed], progress=False, **settings["dfr"])[0],
        "hsfm": fit_hsfm(train, part, erm, seeds=[seed], progress=False, **hsfm).head[0],
        "hsfm_capped": fit_hsfm(train, part, erm, seeds=[seed], progress=False, **capped).head[0],
    }


def _sees(hsfm: Mapping[str, Any]) -> str:
    by_group = hsfm.get("select_by", "worst_group") == "worst_group"
    return "classes; groups choose the epoch" if by_group else "classes"


def _check_groups(part: Embeddings, val: Embeddings, agreement: float, draw: int) -> None:
    """DFR tunes on halves, and needs two images of each group that it sees."""
    before, after = (torch.bincount(e.group, minlength=e.n_groups).tolist() for e in (val, part))
    for group, (n, left) in enumerate(zip(before, after, strict=True)):
        if n and left < 2 and not (left == 0 and agreement in (0, 1)):
            label, attribute = divmod(group, val.n_attributes)
            raise ValueError(
                f"agreement: {agreement} leaves {left} of {n} images of group {val.class_names[label]}, "
                f"{val.attribute_names[attribute]} in {val.dataset} {val.split} (draw {draw}); at least 2 are needed"
            )


def class_sizes(val: Embeddings, minority: Bool[Tensor, " n"], agreement: Sequence[float]) -> list[int]:
    """How many images of each class a subsample holds, so that every agreement can be had at this size.

    The classes keep their proportions: the largest share of val at which no class runs out of majority or minority
    images. Raises ValueError for an agreement outside 0..1, and where a class has too few of either.
    """
    if not len(agreement) or len(set(agreement)) != len(agreement):
        raise ValueError(f"agreement: {list(agreement)} is empty or repeats a share")
    for share in agreement:
        if not 0 <= share <= 1:
            raise ValueError(f"agreement: {share} is not between 0 and 1")
    whole = torch.bincount(val.y, minlength=val.n_classes).tolist()
    few = torch.bincount(val.y[minority], minlength=val.n_classes).tolist()
    scales = [
        min(
            limit / (wanted * n)
            for share in agreement
            for limit, wanted in ((n - rare, share), (rare, 1 - share))
            if wanted > 0
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
    """Random images of each class, `agreement` of which are of the majority, those whose attribute is not rare.

    An attribute is rare in a class where it is rarer than in all of train (`minority_rows`).
    """
    chosen = []
    for label, size in enumerate(sizes):
        common = round(agreement * size)
        for of_kind, count in ((~minority, common), (minority, size - common)):
            rows = ((val.y == label) & of_kind).nonzero().squeeze(1)
            chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return val.take(torch.cat(chosen).sort().values)

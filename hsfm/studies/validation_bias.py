"""How much bias of the validation split each method bears.

All of LLR, DFR and HSFM learn from validation images. Where these are balanced over the groups, class labels alone show
what to learn; here the split is made more and more like a biased training split, at constant size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Generator, Tensor
from tqdm import tqdm

from hsfm.baselines.dfr import fit_dfr, fit_llr
from hsfm.embeddings import Embeddings, minority_rows
from hsfm.head import Head, stack
from hsfm.meta import train as fit_hsfm
from hsfm.studies.sweep import accuracies

METHODS = ("erm", "llr", "dfr", "hsfm")


def run_validation_bias(
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
    `dfr` and `llr`, as their functions take them.

    Columns: method, agreement, draw, n (images of the subsample), n_minority (of them), test_average,
    test_worst_group, test_worst_class. Raises ValueError as `class_sizes` does.
    """
    minority = minority_rows(train, val)
    if minority is None:
        raise ValueError("validation_bias needs the attribute of every image of train and val")
    sizes = class_sizes(val, minority, agreement)
    rows = []
    for share, draw in tqdm([(a, d) for a in agreement for d in range(draws)], "validation bias", disable=None):
        part = subsample(val, minority, sizes, share, Generator().manual_seed(draw))
        heads = {
            "erm": head,
            "llr": fit_llr(part, seeds=[draw], progress=False, **settings["llr"])[0],
            "dfr": fit_dfr(part, seeds=[draw], progress=False, **settings["dfr"])[0],
            "hsfm": fit_hsfm(train, part, head, seeds=[draw], progress=False, **settings["hsfm"]).head[0],
        }
        scores = accuracies(stack([heads[method] for method in METHODS]), test)
        about = {
            "agreement": share,
            "draw": draw,
            "n": len(part.y),
            "n_minority": int(minority_rows(train, part).sum()),
        }
        rows += [
            {"method": method, **about, **{f"test_{name}": float(values[i]) for name, values in scores.items()}}
            for i, method in enumerate(METHODS)
        ]
    return pd.DataFrame(rows)


def class_sizes(val: Embeddings, minority: Bool[Tensor, " n"], agreement: Sequence[float]) -> list[int]:
    """How many images of each class a subsample holds, so that every agreement can be had at this size.

    The classes keep their proportions: the largest share of val at which no class runs out of majority or minority
    images. Raises ValueError for an agreement outside 0..1, and where a class has too few of either.
    """
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

"""Class scaling: ERM's head with an offset per class, chosen by the scorer; nothing is trained.

A factor on a class's probability is an offset of its logit. The method moves the boundary between classes and cannot
change what the head looks at, so a gain over ERM is the part of the gap that is mere class prior.

Letters: n images, c classes, k offsets that are tried.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer

LABEL = "Class scaling"
SOURCE = "Seo et al., Re-evaluating Group Robustness via Adaptive Class-Specific Scaling, arXiv 2412.15311"

AT_ONCE = 2**26  # logits


class Settings(MethodSettings):
    offsets: PositiveInt = Field(200, description="Offsets that are tried per class, quantiles of where rows switch.")
    rounds: PositiveInt = Field(10, description="Most passes over the classes; two classes need one.")


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:
    """ERM's head `[1 c d]` with the offsets that score best on val, under the first seed; train is not used.

    Class after class, each offset is moved to where the scorer is highest, until a pass changes nothing; of equal ones
    the smallest change wins. Chosen and scored on the same rows, since c - 1 numbers hardly overfit.
    """
    val.refuse_test(LABEL)
    logits = erm.logits(val.features)
    offset = torch.zeros_like(erm.bias)
    best = float(scorer(logits))
    for _ in range(settings.rounds):
        before = offset.clone()
        for label in range(1, val.n_classes):  # those of the first class are relative to it
            tried = _switches(logits + offset, label, settings.offsets)
            # few at a time, where the logits of all would fill the memory
            parts = tried.split(max(1, AT_ONCE // logits.numel()))
            scores = torch.cat([scorer(_moved(logits + offset, label, part)) for part in parts])
            if float(scores.max()) > best:
                number = int(scores.argmax())
                best = float(scores[number])
                offset[label] += tried[number]
        if torch.equal(offset, before):
            break
    return Fit(
        head=Head(erm.weight[None], (erm.bias + offset)[None]),
        seeds=tuple(seeds[:1]),
        chosen_by=f"offsets by the {scorer.in_words} of validation",
        summary=f"validation {scorer.in_words} {percent([best])}",
        settings={"offsets": [round(value, 4) for value in offset.tolist()]},
    )


def _moved(logits: Float[Tensor, "n c"], label: int, changes: Float[Tensor, " k"]) -> Float[Tensor, "k n c"]:
    moved = logits.repeat(len(changes), 1, 1)
    moved[..., label] += changes[:, None]
    return moved


def _switches(logits: Float[Tensor, "n c"], label: int, count: int) -> Float[Tensor, " k"]:
    """Changes of a class's logit between which rows enter or leave it, the smallest first; at most `count`."""
    others = logits.clone()
    others[:, label] = -torch.inf
    switch = (others.amax(1) - logits[:, label]).sort().values
    between = (switch[1:] + switch[:-1]) / 2
    if len(between) > count:
        between = between[torch.linspace(0, len(between) - 1, count).round().long()]
    return between[between.abs().argsort(stable=True)]

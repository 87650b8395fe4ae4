"""DDB's pruning: keep the generated images that show the object and are hard for ERM.

Letters: b images of a batch, c classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.core.settings import FrozenSettings
from hsfm.data.pixels import Images, pack
from hsfm.data.transforms import TransformSettings, prepare, show_masks
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.ddb.attribution import integrated_gradients, share_inside
from hsfm.methods.ddb.generated import PRUNED, read_mask, read_png
from hsfm.models.backbone import Network


class PruneSettings(FrozenSettings):
    """Which generated images are kept."""

    attribution: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of the attribution (integrated gradients) that has to lie on the object, more than this. "
        "The other rule: ERM is less sure of the class than of the class's own images, on average.",
    )
    steps: PositiveInt = Field(50, description="Of the integral.")
    batch_size: PositiveInt = Field(32, description="Images at once.")


def prune(
    network: Network,
    batches: Iterable[Sequence[Mapping[str, Any]]],
    pictures: Callable[[Sequence[str]], Sequence[np.ndarray]],
    confidence: Float[Tensor, " c"],
    transform: TransformSettings,
    *,
    settings: PruneSettings,
    compute: Compute,
) -> Iterator[dict[str, Any]]:
    """Rows of a pruned table for batches of rows of a generated one; those without an image say already why not.

    pictures: gives the pixels of sources by their ids. The rest is as in `evaluate_pairs`.
    """
    for batch in batches:
        rows = [dict(row) for row in batch]
        made = [row for row in rows if row["image"] is not None]
        if made:
            pairs = Pairs(
                generated=pack([read_png(row["image"]) for row in made]),
                sources=pack(pictures([row["source_id"] for row in made])),
                masks=[read_mask(row["mask"]) for row in made],
                y=torch.tensor([row["y"] for row in made]),
            )
            scores = evaluate_pairs(network, pairs, confidence, transform, settings=settings, compute=compute)
            found = {name: getattr(scores, name).tolist() for name in ("attribution", "probability", "limit")}
            found["why_not"] = why_not(scores, settings.attribution)
            for number, row in enumerate(made):
                row |= {name: values[number] for name, values in found.items()}
        for row in rows:
            yield {**{name: row.get(name) for name in PRUNED.names}, "kept": row["why_not"] is None}


def class_confidence(erm: Head, train: Embeddings) -> Float[Tensor, " c"]:
    """The mean probability that ERM gives to each class, over the class's own training images."""
    train.refuse_test("DDB")
    own = erm.logits(train.features).softmax(-1).gather(1, train.y[:, None])[:, 0]
    return torch.stack([own[train.y == y].mean() for y in range(train.n_classes)])


@dataclass(frozen=True)
class Pairs:
    """Generated images and the sources they were made of, each pair and its mask of one size."""

    generated: Images
    sources: Images
    masks: Sequence[Any]  # bool [h w] each: where the new object is
    y: Int[Tensor, " b"]  # the class it is to show


@dataclass(frozen=True)
class PairScores:
    attribution: Float[Tensor, " b"]  # share of integrated gradients on the object
    probability: Float[Tensor, " b"]  # of the class under ERM
    limit: Float[Tensor, " b"]  # that it has to stay below
    on_object: Bool[Tensor, " b"]  # the first rule
    hard: Bool[Tensor, " b"]  # the second

    @property
    def kept(self) -> Bool[Tensor, " b"]:
        return self.on_object & self.hard


def evaluate_pairs(
    network: Network,
    pairs: Pairs,
    confidence: Float[Tensor, " c"],
    transform: TransformSettings,
    *,
    settings: PruneSettings,
    compute: Compute,
) -> PairScores:
    """By both rules: the object has to be seen, and the image has to be hard for ERM.

    network: ERM's, with its head. A generated image is kept where more than `settings.attribution` of the
    attribution (integrated gradients of the new class's logit from the source image on, absolute values) lies on the
    new object, and where the class's probability is below `confidence`, the mean that ERM gives its own images. Source,
    image and mask go through the same transform, so that they lie on one another.
    """
    compute.prepare(network).eval()
    y = pairs.y.to(compute.device)
    with compute.repeatable():
        shown, baseline = (prepare(images.to(compute.device), transform) for images in (pairs.generated, pairs.sources))
        mask = show_masks(pairs.masks, transform).to(compute.device)
        attribution = integrated_gradients(network, shown, baseline, y, steps=settings.steps, compute=compute)
        with torch.inference_mode(), compute.autocast():
            logits = torch.cat([network(shown[part]) for part in compute.parts(len(shown), *shown.shape[-2:])])
        probability = logits.float().softmax(-1).gather(1, y[:, None])[:, 0].cpu()
        share = share_inside(attribution, mask).cpu()
    return by_rules(share, probability, confidence[pairs.y], settings.attribution)


def by_rules(
    attribution: Float[Tensor, " b"],
    probability: Float[Tensor, " b"],
    limit: Float[Tensor, " b"],
    min_attribution: float | int,
) -> PairScores:
    """Which images the two rules keep."""
    return PairScores(attribution, probability, limit, attribution > min_attribution, probability < limit)


def why_not(scores: PairScores, min_attribution: float | int) -> list[str | None]:
    """For readers, what speaks against each image; None for those that are kept."""
    reasons = []
    for seen, hard in zip(scores.on_object.tolist(), scores.hard.tolist(), strict=True):
        against = [] if seen else [f"attribution on the object not above {min_attribution:g}"]
        against += [] if hard else ["ERM as sure as of the class's own images"]
        reasons.append(" and ".join(against) or None)
    return reasons

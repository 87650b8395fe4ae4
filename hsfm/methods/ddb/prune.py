"""DDB's pruning: keep the generated images that show the object and are hard for ERM.

Letters: b images of a batch, c classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from hsfm.methods.ddb.generated import PRUNED, read_png
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
    rows: Sequence[Mapping[str, Any]],
    pictures: Callable[[Sequence[str]], Sequence[np.ndarray]],
    confidence: Float[Tensor, " c"],
    transform: TransformSettings,
    *,
    settings: PruneSettings,
    compute: Compute,
) -> Iterator[dict[str, Any]]:
    """Rows of a pruned table for those of a generated one; those without an image say already why not.

    An image is kept where more than `settings.attribution` of the attribution lies on the new object, and where ERM
    gives its class a lower probability than `confidence`, the mean that it gives the class's own images. network:
    ERM's, with its head. pictures: gives the pixels of sources by their ids.
    """
    compute.prepare(network).eval()
    for first in range(0, len(rows), settings.batch_size):
        batch = [dict(row) for row in rows[first : first + settings.batch_size]]
        made = [row for row in batch if row["image"] is not None]
        if made:
            images = pack([read_png(row["image"]) for row in made]), pack(pictures([row["source_id"] for row in made]))
            masks, y = [read_png(row["mask"]) for row in made], torch.tensor([row["y"] for row in made])
            attribution, probability = score(
                network, *images, masks, y, transform, steps=settings.steps, compute=compute
            )
            limit = confidence[y]
            columns = attribution, probability, limit, attribution > settings.attribution, probability < limit
            for row, share, p, most, *rules in zip(made, *(column.tolist() for column in columns), strict=True):
                row |= {"attribution": share, "probability": p, "limit": most}
                row["why_not"] = why_not(*rules, settings.attribution)
        for row in batch:
            yield {**{name: row.get(name) for name in PRUNED.names}, "kept": row["why_not"] is None}


def class_confidence(erm: Head, train: Embeddings) -> Float[Tensor, " c"]:
    """The mean probability that ERM gives to each class, over the class's own training images."""
    train.refuse_test("DDB")
    own = erm.logits(train.features).softmax(-1).gather(1, train.y[:, None])[:, 0]
    return torch.stack([own[train.y == y].mean() for y in range(train.n_classes)])


def score(
    network: Network,
    generated: Images,
    sources: Images,
    masks: Sequence[Bool[np.ndarray, "_h _w"]],
    y: Int[Tensor, " b"],
    transform: TransformSettings,
    *,
    steps: int,
    compute: Compute,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The share of the attribution that lies on the object, and the probability of the class under ERM, on the CPU.

    The attribution are integrated gradients of the new class's logit from the source image on, absolute values. Source,
    image and mask (where the new object is) go through the same transform, so that they lie on one another.
    """
    with compute.repeatable():
        shown, baseline = (prepare(images.to(compute.device), transform) for images in (generated, sources))
        mask, y = show_masks(masks, transform).to(compute.device), y.to(compute.device)
        attribution = integrated_gradients(network, shown, baseline, y, steps=steps, compute=compute)
        with torch.inference_mode(), compute.autocast():
            logits = torch.cat([network(shown[part]) for part in compute.parts(len(shown), *shown.shape[-2:])])
        probability = logits.float().softmax(-1).gather(1, y[:, None])[:, 0]
        return share_inside(attribution, mask).cpu(), probability.cpu()


def why_not(on_object: bool, hard: bool, min_attribution: float | int) -> str | None:
    """Reasons against an image, for readers; None where it is kept."""
    against = [] if on_object else [f"attribution on the object not above {min_attribution:g}"]
    against += [] if hard else ["ERM as sure as of the class's own images"]
    return " and ".join(against) or None

"""DDB's pruning: keep the generated images that show the object and are hard for ERM.

Whether an image shows the object is told by integrated gradients (Sundararajan, Taly and Yan, "Axiomatic attribution
for deep networks", ICML 2017), by captum. Letters: b images of a batch, c classes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.core.settings import FrozenSettings
from hsfm.data.pixels import Images, pack
from hsfm.data.transforms import TransformSettings, prepare, show_masks
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.ddb.generated import PRUNED, read_png
from hsfm.models.backbone import Network


class PruneSettings(FrozenSettings):
    """Which generated images are kept."""

    rule: Literal["share", "sum"] = Field(
        "share",
        description="share: of the size of the attribution (integrated gradients), more than `attribution` lies on the "
        "object, and ERM is less sure of the class than of the class's own images, on average. sum, of the authors' "
        "code: the attribution on the object, with its signs, sums to more than that, and ERM is less sure than of the "
        "class's sources, on average.",
    )
    attribution: float = Field(0.3, ge=0, description="Least share, or sum in units of the class's logit.")
    steps: PositiveInt = Field(50, description="Of the integral.")
    batch_size: PositiveInt = Field(32, description="Images at once.")

    @model_validator(mode="after")
    def _check_share(self) -> "PruneSettings":
        if self.rule == "share" and self.attribution > 1:
            raise ValueError(f"attribution {self.attribution:g} is more than 1, which no share is")
        return self


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

    network: ERM's, with its head. pictures: gives the pixels of sources by their ids. confidence: the limit that ERM's
    probability of the class has to stay below.
    """
    compute.prepare(network).eval()
    not_on_object = f"attribution on the object not above {settings.attribution:g}"
    whose = {"share": "own images", "sum": "sources"}[settings.rule]
    reasons = not_on_object, f"ERM as sure as of the class's {whose}"
    for first in range(0, len(rows), settings.batch_size):
        batch = [dict(row) for row in rows[first : first + settings.batch_size]]
        made = [row for row in batch if row["image"] is not None]
        if made:
            images = pack([read_png(row["image"]) for row in made]), pack(pictures([row["source_id"] for row in made]))
            masks, y = [read_png(row["mask"]) for row in made], torch.tensor([row["y"] for row in made])
            how = {"rule": settings.rule, "steps": settings.steps, "compute": compute}
            attribution, probability = score(network, *images, masks, y, transform, **how)
            limit = confidence[y]
            columns = (attribution, probability, limit, attribution > settings.attribution, probability < limit)
            for row, *numbers, on_object, hard in zip(made, *(column.tolist() for column in columns), strict=True):
                row |= dict(zip(("attribution", "probability", "limit"), numbers, strict=True))
                against = [reason for reason, holds in zip(reasons, (on_object, hard), strict=True) if not holds]
                row["why_not"] = " and ".join(against) or None
        for row in batch:
            yield {**{name: row.get(name) for name in PRUNED.names}, "kept": row["why_not"] is None}


def class_confidence(erm: Head, train: Embeddings, sources: Collection[str] | None = None) -> Float[Tensor, " c"]:
    """The mean probability that ERM gives to each class, over the class's own training images.

    sources: ids; given, over those of the images alone that are among them.
    """
    train.refuse_test("DDB")
    own = erm.logits(train.features).softmax(-1).gather(1, train.y[:, None])[:, 0]
    among = torch.tensor([sources is None or name in sources for name in train.image_id])
    return torch.stack([own[(train.y == y) & among].mean() for y in range(train.n_classes)])


def score(
    network: Network,
    generated: Images,
    sources: Images,
    masks: Sequence[Bool[np.ndarray, "_h _w"]],
    y: Int[Tensor, " b"],
    transform: TransformSettings,
    *,
    rule: str,
    steps: int,
    compute: Compute,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The attribution on the object, and the probability of the class under ERM, on the CPU.

    The attribution is that of the class's logit, by integrated gradients along the line from the source image.
    rule: as in `PruneSettings`; the share is one of absolute values, 0 where there are none. Source, image and mask
    go through the same transform, so that they lie on one another. steps: of the Gauss-Legendre quadrature.
    """
    from captum.attr import IntegratedGradients  # of the extra [diffusion]

    def logits(images: Tensor) -> Tensor:
        with compute.autocast():
            return network(images).float()

    def attribute(part: slice) -> Tensor:  # one step of the quadrature at a time
        how = {"target": y[part], "n_steps": steps, "internal_batch_size": len(y[part])}
        return IntegratedGradients(logits).attribute(shown[part], baseline[part], **how).detach()

    with compute.repeatable():
        shown, baseline = (prepare(images.to(compute.device), transform) for images in (generated, sources))
        mask, y = show_masks(masks, transform).to(compute.device), y.to(compute.device)
        parts = compute.parts(len(shown), *shown.shape[-2:])
        signed = torch.cat([attribute(part) for part in parts])
        size = (signed if rule == "sum" else signed.abs()).sum(1)
        with torch.inference_mode():
            found = torch.cat([logits(shown[part]) for part in parts])
        probability, on_object = found.softmax(-1).gather(1, y[:, None])[:, 0], (size * mask).sum((1, 2))
        if rule == "share":
            whole = size.sum((1, 2))
            on_object = torch.where(whole > 0, on_object / whole, 0.0)
        return on_object.cpu(), probability.cpu()

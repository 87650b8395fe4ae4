"""Adaptive masks of the image regions that a network relies on (Noohdani et al., CVPR 2024).

An image's heat map is cut at several of its quantiles, and the knee of the loss over these cuts, where keeping less
begins to cost, says at which.

Letters: n images, b of a batch, q cuts.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.data.pixels import ImageFiles, Images, image_batches
from hsfm.data.transforms import TransformSettings, prepare, shape_after
from hsfm.methods.dac.heat_maps import heat_maps
from hsfm.methods.dac.masks import Masks, MaskSettings, pack
from hsfm.models.backbone import Network


def mask_images(
    network: Network,
    rows: pd.DataFrame,
    source: Callable[[pd.DataFrame], Images | ImageFiles],
    metadata: Mapping[str, Any],
    *,
    settings: MaskSettings,
    compute: Compute,
    done: Callable[[int], None],
) -> Masks:
    """Masks of the images of some rows of an image table; masked-out pixels are 0 in what the network sees.

    source: gives the images of rows. metadata: of the masks; its transform is the one that is used. done: is told how
    many images more have a mask.
    """
    transform, batch_size = TransformSettings(**metadata["transform"]), settings.batch_size
    compute.prepare(network).eval()
    labels = torch.tensor(rows["y"].to_numpy(np.int64), device=compute.device).split(batch_size)
    batches = image_batches(source(rows), torch.arange(len(rows)), batch_size, compute.device)
    packed, cuts = [], []
    with compute.repeatable():
        for images, y in zip(batches, labels, strict=True):
            for part in compute.parts(len(images), *shape_after(images, transform)):
                kept, found = _cut(network, prepare(images[part], transform), y[part], settings, compute)
                packed.append(pack(kept))
                cuts += found
            done(len(y))
    return Masks(
        image_id=tuple(rows["image_id"]),
        packed=torch.cat(packed),
        size=tuple(kept.shape[-2:]),
        cuts=pd.DataFrame(cuts),
        metadata=metadata,
    )


def _cut(
    network: Network, shown: Float[Tensor, "b 3 h w"], y: Int[Tensor, " b"], settings: MaskSettings, compute: Compute
) -> tuple[Bool[Tensor, "b h w"], list[dict[str, Any]]]:
    heat = heat_maps(network, shown, compute)
    kept = torch.stack([heat >= level[:, None, None] for level in quantiles(heat, settings.cuts)])  # [q b h w]
    with torch.inference_mode(), compute.autocast():
        logits = [network(shown * part[:, None]) for part in kept]
        loss = torch.stack([cross_entropy(z.float(), y, reduction="none") for z in logits], 1).cpu()
    numbers, knees = zip(*[choose_cut(settings.cuts, curve, settings.fallback) for curve in loss.tolist()], strict=True)
    cuts = [
        {"cut": settings.cuts[number], "knee": knee, "loss": curve.numpy()}
        for number, knee, curve in zip(numbers, knees, loss, strict=True)
    ]
    return kept[torch.tensor(numbers), torch.arange(len(numbers))], cuts


def quantiles(heat: Float[Tensor, "b h w"], cuts: Sequence[float]) -> Float[Tensor, "q b"]:
    """Quantiles of each heat map, interpolated linearly as numpy does."""
    flat = heat.flatten(1)
    position = torch.tensor(cuts, dtype=torch.float64) * (flat.shape[1] - 1)
    below = position.floor().long().clamp(max=flat.shape[1] - 2)
    # torch.quantile does the same, but for 2^24 numbers at most
    ordered, _ = flat.sort(dim=1)
    low, high = (ordered[:, rows.to(flat.device)] for rows in (below, below + 1))
    return torch.lerp(low, high, (position - below).to(flat)).T


def choose_cut(cuts: Sequence[float], loss: Sequence[float], fallback: float) -> tuple[int, bool]:
    """The number of the cut to take for an image, by the losses of what is left at each; whether they have a knee.

    The last knee of an increasing convex curve with sensitivity 1 (Satopaa et al., "Finding a kneedle in a haystack",
    2011), or else `fallback`. Raises ValueError for a loss that is not finite.
    """
    from kneed import KneeLocator  # imports scipy's signal processing

    if not all(map(isfinite, loss)):
        raise ValueError(f"masks: the loss of a masked image is {list(loss)} at the cuts {list(cuts)}")
    knee = None
    if max(loss) > min(loss):  # a flat curve has none, and kneed would divide by its height
        knee = KneeLocator(cuts, loss, S=1.0, curve="convex", direction="increasing", online=True).knee
    return list(cuts).index(fallback if knee is None else float(knee)), knee is not None

"""Feature extraction from the rows of an image table, or from image files without the workflow."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from pydantic import ValidationError
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.core.naming import naming
from hsfm.core.progress import Progress
from hsfm.core.shards import WHOLE, Shard
from hsfm.data.pixels import ImageFiles, Images, image_batches
from hsfm.data.table import ImageTable
from hsfm.data.transforms import TransformSettings, apply, shape_after
from hsfm.features.embeddings import Embeddings
from hsfm.models.backbone import Network
from hsfm.models.input_size import check_takes

log = logging.getLogger(__name__)


def embed_images(
    network: Network,
    paths: Sequence[str | Path],
    *,
    transform: TransformSettings | Mapping[str, Any],
    batch_size: int = 64,
    device: str = "auto",
) -> Float32[np.ndarray, "n d"]:
    """Features of image files under `network`, in eval mode.

    transform: the settings, or a mapping of them: `resize` (also one number, of the shorter side) and `crop`, each
    [height, width] or None, `mean` and `std` of the three channels in 0..1. Raises ValueError for settings that are
    missing or out of bounds, for an image that cannot be read, and where the images are not of one size
    after the transform, or of one that the network does not take.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"paths: is one path, expected a list of them, [{str(paths)!r}]")
    if not len(paths):
        raise ValueError("paths: there is no image")
    try:
        compute, transform = Compute.on(device), TransformSettings.model_validate(transform)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"transform/{'/'.join(map(str, first['loc']))}: {first['msg']}") from None
    images = ImageFiles(pd.DataFrame({"path": [str(path) for path in paths]}), "")
    check_takes(network, shape_after(images.read(torch.tensor([0])), transform), "transform")
    return _embed(feature_function(network, transform, compute), images, "embedding", batch_size, compute).numpy()


def embed_table(
    features: Callable[[Images], Float[Tensor, "b d"]],
    table: ImageTable,
    source: Callable[[pd.DataFrame], Images | ImageFiles],
    *,
    split: str,
    batch_size: int,
    compute: Compute,
    metadata: Mapping[str, Any],
    early_logits: Float[Tensor, "n c"] | None = None,
    shard: Shard = WHOLE,
) -> Embeddings:
    """Embeddings of one split, in table order.

    features: those of a batch, as `feature_function` gives. source: gives the images of some rows. metadata: further
    fields of the embeddings. early_logits: the network's, of all validation images; they become `extra` of val. shard:
    which of the split's batches are to be embedded; they are the same batches however many shards there are.

    Raises ValueError for early logits of another number of images than validation has.
    """
    rows, extra = table.split(split), {}
    share = shard.take(-(-len(rows) // batch_size))
    own = slice(share.start * batch_size, share.stop * batch_size)
    if split == "val" and early_logits is not None:
        if len(early_logits) != len(rows):
            found = f"{len(early_logits)} images, but validation of {table.dataset} has {len(rows)}"
            raise ValueError(f"the network's early logits are of {found}")
        extra = {"early_logits": early_logits[own]}
    rows = rows.iloc[own]
    what = f"embedding {split}"
    return Embeddings(
        features=_embed(features, source(rows), what, batch_size, compute) if len(rows) else torch.empty(0, 1),
        y=torch.tensor(rows["y"].to_numpy(np.int64)),
        attribute=torch.tensor(rows["attribute"].fillna(-1).to_numpy(np.int64)),
        image_id=tuple(rows["image_id"]),
        class_names=table.class_names,
        attribute_names=table.attribute_names,
        cells=table.cells,
        dataset=table.dataset,
        split=split,
        extra=extra,
        **metadata,
    )


def _embed(
    features: Callable[[Images], Float[Tensor, "b d"]],
    images: Images | ImageFiles,
    what: str,
    batch_size: int,
    compute: Compute,
) -> Float[Tensor, "n d"]:
    batches = image_batches(images, torch.arange(len(images)), batch_size, compute.device)
    found = []
    with Progress(what, len(images), "image") as bar, naming(f"{what}, batch_size {batch_size}"):
        for part in stream(features, batches, compute):
            found.append(part)
            bar.update(len(part))
    some = torch.cat(found[:10])
    # 0.2 and more for photographs, under a network without training too; 0.002 with a mean and std of gray levels
    if (spread := ((some - some.mean(0)).square().mean() / some.square().mean()).sqrt()) < 0.02 and len(some) > 1:
        log.warning(
            "%s: the features of different images hardly differ, by %.1g of their length; "
            "do the transform's mean and std suit the network?",
            what,
            spread,
        )
    return torch.cat(found)


def feature_function(
    network: Network, transform: TransformSettings, compute: Compute
) -> Callable[[Images], Float[Tensor, "b d"]]:
    """Features of a batch that lies on the device; puts the network there and into eval mode."""
    forward = compute.compiled(compute.prepare(network).eval().features)
    return lambda images: apply(forward, images, transform, compute)


def stream(
    features: Callable[[Any], Tensor], batches: Iterable[Any], compute: Compute
) -> Iterator[Float[Tensor, "b d"]]:
    """Features of batches that lie on the device, in float32 on the CPU.

    The network behind `features` has to be in eval mode; then the rows do not depend on the batch size, up to the order
    in which a matrix product sums (about 1e-6 relative).
    """
    with compute.repeatable():
        for batch in batches:
            with torch.inference_mode():
                found = features(batch).float().cpu()
            yield found

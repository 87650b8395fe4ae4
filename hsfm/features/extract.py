"""Feature extraction from the rows of an image table, or from image files without the workflow."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.core.progress import Progress
from hsfm.core.shards import WHOLE, Shard
from hsfm.data.pixels import ImageFiles, Images, image_batches
from hsfm.data.table import ImageTable
from hsfm.data.transforms import TransformSettings, apply
from hsfm.features.embeddings import Embeddings, extract
from hsfm.models.backbone import Network


def embed_images(
    network: Network,
    paths: Sequence[str | Path],
    *,
    transform: TransformSettings | Mapping[str, Any],
    batch_size: int = 64,
    device: str = "auto",
) -> Float32[np.ndarray, "n d"]:
    """Features of image files under `network`, in eval mode.

    transform: the settings, or a mapping of them: `resize` and `crop` ([height, width] or None), `mean` and `std` of
    the three channels. Raises ValueError for an image that cannot be read, and where the images are not of one size
    after the transform.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is not a number of images from 1")
    if not len(paths):
        raise ValueError("paths: there is no image")
    compute, transform = Compute.on(device), TransformSettings.model_validate(transform)
    images = ImageFiles(pd.DataFrame({"path": [str(path) for path in paths]}), "")
    with Progress("embedding", len(paths), "image") as bar:
        parts = []
        batches = image_batches(images, torch.arange(len(images)), batch_size, compute.device)
        for features in stream(feature_function(network, transform, compute), batches, compute):
            parts.append(features)
            bar.update(len(features))
    return torch.cat(parts).numpy()


def embed_table(
    features: Callable[[Images], Float[Tensor, "b d"]],
    pieces: Callable[[], Iterable[ImageTable]],
    source: Callable[[pd.DataFrame], Images | ImageFiles],
    *,
    split: str,
    batch_size: int,
    compute: Compute,
    metadata: Mapping[str, Any],
    shard: Shard = WHOLE,
) -> Iterator[Embeddings]:
    """Embeddings of one split, piece by piece, in table order; memory does not grow with the number of images.

    features: those of a batch, as `feature_function` gives. pieces: gives an image table from its beginning, a part of
    its rows at a time. source: gives the images of some of its rows. batch_size: images at once; halved where memory
    does not suffice. metadata: further fields of the embeddings. shard: which of the split's batches are to be
    embedded; they are the same batches however many shards there are.
    """
    waiting: deque[Embeddings] = deque()  # labels of pieces whose features are on their way
    counts = [int((piece.rows["split"] == split).sum()) for piece in pieces()]
    taken = _rows_of_shard(counts, batch_size, shard)

    def batches() -> Iterator[Images]:
        for piece, part in zip(pieces(), taken, strict=True):
            rows = piece.split(split).iloc[part]
            if not rows.empty:
                waiting.append(_without_features(piece, rows, split, metadata))
                yield from image_batches(source(rows), torch.arange(len(rows)), batch_size, compute.device)

    first, n = 0, sum(len(range(count)[part]) for count, part in zip(counts, taken, strict=True))
    with Progress(f"embedding {split}", n, "image") as bar:
        for computed in stream(features, batches(), compute):
            piece, part = waiting[0], slice(first, first + len(computed))  # a batch is of one piece
            yield replace(piece, features=computed, y=piece.y[part], attribute=piece.attribute[part],
                          image_id=piece.image_id[part])  # fmt: skip
            bar.update(len(computed))
            first += len(computed)
            if first == len(piece.y):
                waiting.popleft()
                first = 0


def _rows_of_shard(counts: Sequence[int], batch_size: int, shard: Shard) -> list[slice]:
    """Of pieces with so many rows each, those whose batches are a shard's; no batch reaches over the end of a piece."""
    batches = [-(-count // batch_size) for count in counts]
    taken, first, found = shard.take(sum(batches)), 0, []
    for n in batches:
        found.append(slice(*(max(edge - first, 0) * batch_size for edge in (taken.start, taken.stop))))
        first += n
    return found


def _without_features(piece: ImageTable, rows: pd.DataFrame, split: str, metadata: Mapping[str, Any]) -> Embeddings:
    return Embeddings(
        features=torch.empty(len(rows), 0),
        y=torch.tensor(rows["y"].to_numpy(np.int64)),
        attribute=torch.tensor(rows["attribute"].fillna(-1).to_numpy(np.int64)),
        image_id=tuple(rows["image_id"]),
        class_names=piece.class_names,
        attribute_names=piece.attribute_names,
        dataset=piece.dataset,
        split=split,
        **metadata,
    )


def feature_function(
    network: Network, transform: TransformSettings, compute: Compute
) -> Callable[[Images], Float[Tensor, "b d"]]:
    """Features of a batch that lies on the device; puts the network there and into eval mode."""
    forward = compute.compiled(compute.prepare(network).eval().features)

    def features(images: Images) -> Float[Tensor, "b d"]:
        return apply(forward, images, transform, compute)

    return features


def stream(
    features: Callable[[Images], Tensor], batches: Iterable[Images], compute: Compute
) -> Iterator[Float[Tensor, "b d"]]:
    """Features of batches on the device, in their order, on the CPU."""
    with compute.repeatable():
        yield from extract(features, batches)

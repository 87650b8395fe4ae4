"""Rows of the table of objects: where in each source image its object is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from hsfm.core.shards import cut
from hsfm.data.transforms import TransformSettings, hide_masks
from hsfm.methods.ddb.generated import as_png, read_png

Pictures = Callable[[Sequence[str]], Sequence[np.ndarray]]


def object_row(source: Any, mask: Bool[np.ndarray, "h w"] | None, **found: Any) -> dict[str, Any]:
    """A row of the table. source: a row with image_id and y. mask: None or empty where nothing was found."""
    there = mask is not None and bool(mask.any())
    return {
        "image_id": source.image_id,
        "y": source.y,
        **found,
        "area": float(mask.mean()) if there else 0.0,
        "mask": as_png(mask) if there else None,
    }


def masks_of(objects: pd.DataFrame) -> dict[str, Bool[np.ndarray, "_h _w"]]:
    """The masks of a table of objects by the source's id, of those that have one."""
    return {one.image_id: read_png(one.mask) for one in objects.itertuples() if one.mask is not None}


def take_objects(
    sources: pd.DataFrame, masks: Iterable[Tensor], pictures: Pictures, transform: TransformSettings
) -> Iterator[dict[str, Any]]:
    """Objects by masks that are known. masks: on what a network sees of each source after the transform."""
    for source, seen in zip(sources.itertuples(), masks, strict=True):
        (picture,) = pictures([source.image_id])
        yield object_row(source, hide_masks(seen, picture.shape[:2], transform).numpy())


def find_objects(
    sources: pd.DataFrame, pictures: Pictures, segment: Callable, batch_size: int, done: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """Objects that a detector finds.

    segment: from pictures to `hsfm.methods.ddb.segment.Found`. done: is told how many more were looked at.
    """
    for batch in cut(sources, batch_size):
        for source, one in zip(batch.itertuples(), segment(pictures(batch["image_id"])), strict=True):
            score = float(one.scores[0]) if len(one.scores) else None
            yield object_row(source, one.mask, boxes=len(one.boxes), score=score)
        done(len(batch))

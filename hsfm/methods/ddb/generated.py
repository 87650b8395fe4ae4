"""Generated images: their sources, the objects in these, the plan of what to generate, and the Parquet tables of all.

A source is a training image; of its object another class is made. Pixels and masks are PNG inside the tables, each in
the size of its source, so that whatever is done to an image of the dataset can be done to what was generated from it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm import __version__
from hsfm.core.files import encode, read_parquet
from hsfm.data.transforms import TransformSettings, hide_masks
from hsfm.features.embeddings import Embeddings
from hsfm.heads.hard_set import rank_in_class
from hsfm.heads.head import Head

Pictures = Callable[[Sequence[str]], Sequence[np.ndarray]]  # uint8 [h w 3] of images by their ids

_IMAGE = [("image_id", pa.string()), ("y", pa.int32())]
SOURCES = pa.schema(
    [
        *_IMAGE,
        ("loss", pa.float32()),  # under ERM
        ("rank", pa.int32()),  # within the class, from 1, the lowest loss
    ]
)
OBJECTS = pa.schema(
    [
        *_IMAGE,
        ("boxes", pa.int32()),  # found by a detector; null where masks come from elsewhere
        ("score", pa.float32()),  # of the best of them
        ("area", pa.float32()),  # share of the image that the mask covers
        ("mask", pa.binary()),  # where the object is; null where none was found
    ]
)
_PLANNED = [
    ("image_id", pa.string()),
    ("source_id", pa.string()),
    ("source_y", pa.int32()),
    ("y", pa.int32()),  # the class that it is to show
    ("number", pa.int32()),  # among the images of this source
    ("seed", pa.int64()),
    ("token", pa.string()),  # what the prompt calls that class; null without a diffusion model
    ("donor_id", pa.string()),  # whose object was pasted; null with a diffusion model
    ("mask_area", pa.float32()),  # share of the image where the new object is; 0 where none was made
    ("why_not", pa.string()),  # not generated or, in the pruned table, not kept; null for the others
]
GENERATED = pa.schema([*_PLANNED, ("image", pa.binary()), ("mask", pa.binary())])
PRUNED = pa.schema(
    [
        *_PLANNED,
        ("attribution", pa.float32()),  # on the object, as prune/rule has it; null where nothing was generated
        ("probability", pa.float32()),  # of the class under ERM
        ("limit", pa.float32()),  # that it has to stay below
        ("kept", pa.bool_()),
    ]
)
NOTHING_FOUND = "no object was found in the source"


def choose_sources(erm: Head, train: Embeddings, per_class: int) -> pd.DataFrame:
    """The training images of each class that have the lowest loss under ERM's head; all where there are fewer.

    Columns: image_id, y, loss, rank (from 1, within the class), in the order of classes and ranks.
    """
    train.refuse_test("DDB")
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    found = {"image_id": train.image_id, "y": train.y, "loss": loss, "rank": rank_in_class(-loss, train.y)}
    frame = pd.DataFrame(found).sort_values(["y", "rank"], ignore_index=True)
    return frame[frame["rank"] <= per_class]


def object_row(source: Any, mask: Bool[np.ndarray, "h w"] | None, **found: Any) -> dict[str, Any]:
    """A row of the table of objects. source: a row with image_id and y. mask: None or empty where nothing was found."""
    there = mask is not None and bool(mask.any())
    area, png = (float(mask.mean()), as_png(mask)) if there else (0.0, None)
    return {"image_id": source.image_id, "y": source.y, **found, "area": area, "mask": png}


def take_objects(
    sources: pd.DataFrame, masks: Iterable[Tensor], pictures: Pictures, transform: TransformSettings
) -> Iterator[dict[str, Any]]:
    """Objects by masks that are known. masks: on what a network sees of each source after the transform."""
    for source, seen in zip(sources.itertuples(), masks, strict=True):
        (picture,) = pictures([source.image_id])
        yield object_row(source, hide_masks(seen, picture.shape[:2], transform).numpy())


def masks_of(objects: pd.DataFrame) -> dict[str, Bool[np.ndarray, "_h _w"]]:
    """The masks of a table of objects by the source's id, of those that have one."""
    return {one.image_id: read_png(one.mask) for one in objects.itertuples() if one.mask is not None}


def plan(
    sources: pd.DataFrame, class_names: Sequence[str], *, images_per_source: int, seed: int, tokens: Sequence[str] = ()
) -> pd.DataFrame:
    """Plan the images to generate: the columns of a generated table up to the token.

    sources: image_id and y. tokens: one per class. An image's seed is made of `seed`, its source, its class and its
    number alone, so that neither order nor sharding changes what is generated.
    """
    classes, rows = len(class_names), []
    for source in sources.itertuples():
        for number in range(images_per_source):
            # ASSUME: with more than two classes, each of the others in turn
            y = (source.y + 1 + number % (classes - 1)) % classes
            name, token = f"{source.image_id}:{class_names[y]}:{number}", tokens[y] if tokens else None
            rows.append((name, source.image_id, source.y, y, number, seed_of(seed, name), token))
    return pd.DataFrame(rows, columns=[name for name, _ in _PLANNED[:7]])


def seed_of(seed: int, name: str) -> int:
    """A seed of 63 bits for one image."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1


def as_png(pixels: UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"]) -> bytes:
    """PNG of an image, or of a mask with one bit per pixel."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # twice as fast as the default, a tenth larger
    return buffer.getvalue()


def read_png(data: bytes) -> UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"]:
    """The image or mask that `as_png` encoded."""
    return np.array(Image.open(BytesIO(data), formats=["PNG"]))


def drawn(picture: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """The columns of a generated table for a picture and where its new object is."""
    return {"mask_area": float(where.mean()), "image": as_png(picture), "mask": as_png(where)}


def as_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, metadata: Mapping[str, Any]) -> pa.Table:
    """Rows by column as a table of this schema, with what describes them; what a row lacks is null."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return table.replace_schema_metadata(encode({**metadata, "package_version": __version__}, schema))


def read_table(path: str | Path, schema: pa.Schema) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of such a file, and what describes them. Raises ValueError naming a file that is damaged."""
    table, metadata = read_parquet(path, schema)
    # python's own values, None for what is missing: pandas has a missing value per type
    return pd.DataFrame(table.to_pydict(), dtype=object), metadata

"""Masks of the image regions that hold the object, and their Parquet file.

Letters: n images, q cuts, k bytes of a packed mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from hsfm import __version__
from hsfm.core.files import encode, read_parquet, require
from hsfm.core.settings import FrozenSettings

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("cut", pa.float32()),  # quantile of the heat map; null where the mask is not cut out of one
        ("knee", pa.bool_()),  # whether the loss curve had one; without it the cut is the fall-back
        ("loss", pa.list_(pa.float32())),  # of the masked image, at each cut
    ]
)
METADATA = ("dataset", "split", "height", "width", "source", "cuts", "checkpoint_sha256", "transform")


class MaskSettings(FrozenSettings):
    """Image regions that DaC takes for the object, and DDB where it cuts objects out by heat maps."""

    source: Literal["heat_map", "dataset"] = Field(
        "heat_map",
        description="heat_map: where ERM's network sees its prediction; dataset: those it knows (minibirds its birds).",
    )
    cuts: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        min_length=3,
        description="Quantiles of the heat map, rising; the loss of what is left picks one for each image.",
    )
    fallback: float = Field(0.8, description="The cut of an image whose losses show no knee, one of cuts.")
    batch_size: PositiveInt = Field(256, description="Images per forward pass.")

    @model_validator(mode="after")
    def _check_cuts(self) -> "MaskSettings":
        if any(low >= high for low, high in pairwise(self.cuts)):
            raise ValueError(f"cuts: {list(self.cuts)} does not rise")
        if self.fallback not in self.cuts:
            raise ValueError(f"fallback: {self.fallback} is not one of cuts, {list(self.cuts)}")
        return self


@dataclass(frozen=True)
class Masks:
    """The kept pixels of some images, and how they were cut out of heat maps."""

    image_id: tuple[str, ...]
    packed: UInt8[Tensor, "n k"]  # bits of the kept pixels, row by row, the highest bit first
    size: tuple[int, int]  # height and width in pixels
    cuts: pd.DataFrame | None  # cut, knee and loss as in SCHEMA, row by row; None where no heat map was cut
    metadata: Mapping[str, Any]  # METADATA but for the size
    path: str = "masks"  # the file they come from, for messages

    def __len__(self) -> int:
        return len(self.packed)

    def of(self, image_id: Sequence[str]) -> "Masks":
        """The masks of these images, in this order; ValueError naming an image without."""
        image_id = tuple(image_id)
        rows = pd.Index(self.image_id).get_indexer(image_id)
        if (rows < 0).any():
            raise ValueError(f"{self.path}: no mask of image {image_id[rows.argmin()]!r}")
        cuts = None if self.cuts is None else self.cuts.iloc[rows].reset_index(drop=True)
        return replace(self, image_id=image_id, packed=self.packed[rows], cuts=cuts)

    def require(self, **made_for: Any) -> None:
        """Raise ValueError unless the masks were made for this `checkpoint_sha256` or `transform`."""
        for name, value in made_for.items():
            if self.metadata[name] != value:
                raise ValueError(f"{self.path}: masks are for {name} {self.metadata[name]}, expected {value}")


def pack(kept: Bool[Tensor, "n h w"]) -> UInt8[Tensor, "n k"]:
    """Bits of masks, row by row, on the CPU."""
    return torch.from_numpy(np.packbits(kept.cpu().numpy().reshape(len(kept), -1), axis=1))


def unpack(packed: UInt8[Tensor, "n k"], size: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Masks from their bits, on the device of these."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = ((packed[:, :, None] >> shifts) & 1).flatten(1)
    return bits[:, : size[0] * size[1]].reshape(-1, *size).bool()


def as_table(masks: Masks) -> pa.Table:
    """Masks with all that describes them, as `read_masks` reads them from a file."""
    height, width = masks.size
    packed = np.ascontiguousarray(masks.packed.numpy())
    n, n_bytes = packed.shape
    columns = {
        "image_id": pa.array(masks.image_id),
        **{name: pa.nulls(n) if masks.cuts is None else pa.array(masks.cuts[name]) for name in SCHEMA.names[1:]},
        "mask": pa.FixedSizeBinaryArray.from_buffers(pa.binary(n_bytes), n, [None, pa.py_buffer(packed)]),
    }
    table = pa.table(columns).cast(SCHEMA.append(pa.field("mask", pa.binary(n_bytes))))
    described = {**masks.metadata, "height": height, "width": width, "package_version": __version__}
    return table.replace_schema_metadata(encode(described, table.schema))


def read_masks(path: str | Path, *, split: str | None = None) -> Masks:
    """Read masks. Raises ValueError naming the file where it is damaged, or of another split."""
    table, metadata = read_parquet(path, SCHEMA)
    require(metadata, METADATA, path)
    if (split or metadata["split"]) != metadata["split"]:
        raise ValueError(f"{path}: holds the {metadata['split']} split, expected {split}")
    # its type has the width of a mask, which differs from file to file
    packed = pq.read_table(path, columns=["mask"], page_checksum_verification=True)["mask"].combine_chunks()
    bits = np.frombuffer(packed.buffers()[1], np.uint8, len(packed) * packed.type.byte_width)
    known = table["cut"].null_count == len(table)
    return Masks(
        image_id=tuple(table["image_id"].to_pylist()),
        packed=torch.from_numpy(bits.reshape(len(packed), -1).copy()),
        size=(metadata.pop("height"), metadata.pop("width")),
        cuts=None if known else table.select(SCHEMA.names[1:]).to_pandas(),
        metadata={key: metadata[key] for key in METADATA if key in metadata},
        path=str(path),
    )

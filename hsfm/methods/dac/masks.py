"""Masks of the image regions that hold the object, and their Parquet file.

Letters: n images, q cuts, k bytes of a packed mask.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from hsfm import __version__
from hsfm.core.files import encode, read_parquet, read_parquet_in_pieces, require, write_parquet
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
    """What part of each image DaC takes for its object, and DDB where it cuts objects out by heat maps."""

    source: Literal["heat_map", "dataset"] = Field(
        "heat_map",
        description="heat_map cuts them out of where ERM's network finds what speaks for its prediction; dataset takes "
        "those that the dataset knows (minibirds its birds), to see what a method would do with good ones.",
    )
    cuts: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        min_length=3,
        description="Quantiles of the heat map to cut at, rising; the loss of what is left picks one for each image.",
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
    image_id: tuple[str, ...]
    packed: UInt8[Tensor, "n k"]  # bits of the kept pixels, row by row, the highest bit first
    size: tuple[int, int]  # height and width in pixels
    cut: Float[np.ndarray, " n"] | None  # quantile of the heat map at which it was cut; None: not cut out of one
    knee: Bool[np.ndarray, " n"] | None  # whether the loss curve had a knee
    loss: Float[np.ndarray, "n q"] | None  # cross-entropy of the masked image at each cut
    metadata: Mapping[str, Any]  # METADATA but for the size
    path: str = "masks"  # the file they come from, for messages

    def __len__(self) -> int:
        return len(self.packed)

    def of(self, image_id: Sequence[str]) -> "Masks":
        """The masks of these images, in this order; ValueError naming an image without."""
        place = {name: row for row, name in enumerate(self.image_id)}
        missing = [name for name in image_id if name not in place]
        if missing:
            count = f"{len(missing)} of {len(image_id)} images lack one"
            raise ValueError(f"{self.path}: no mask of image {missing[0]!r}; {count}")
        rows = torch.tensor([place[name] for name in image_id])

        def taken(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows.numpy()]

        picked = {name: taken(getattr(self, name)) for name in ("cut", "knee", "loss")}
        return replace(self, image_id=tuple(image_id), packed=self.packed[rows], **picked)

    def require_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError unless the masks fit images of this height and width."""
        if self.size != size:
            have, want = (f"{height} x {width}" for height, width in (self.size, size))
            raise ValueError(f"{self.path}: masks are {have} pixels (height x width), but the network sees {want}")

    def require_transform(self, transform: Mapping[str, Any]) -> None:
        """Raise ValueError unless the masks lie on images that went through this transform."""
        if self.metadata["transform"] != dict(transform):
            made_for = self.metadata["transform"]
            raise ValueError(f"{self.path}: masks are for images after the transform {made_for}, but it is {transform}")

    def require_checkpoint(self, checkpoint_sha256: str, source: str | Path) -> None:
        """Raise ValueError unless the masks were made for this checkpoint, that of the file `source`."""
        if self.metadata["checkpoint_sha256"] != checkpoint_sha256:
            raise ValueError(
                f"{self.path}: masks are of checkpoint {self.metadata['checkpoint_sha256']}, but {source} is of "
                f"{checkpoint_sha256}"
            )


def pack(kept: Bool[Tensor, "n h w"]) -> UInt8[Tensor, "n k"]:
    """Bits of masks, row by row, on the CPU; the last byte of a mask is filled up with zeros."""
    return torch.from_numpy(np.packbits(kept.cpu().numpy().reshape(len(kept), -1), axis=1))


def unpack(packed: UInt8[Tensor, "n k"], size: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Masks from their bits, on the device of these."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed[:, :, None] >> shifts) & 1
    return bits.flatten(1)[:, : size[0] * size[1]].reshape(-1, *size).bool()


# Files ----------------------------------------------------------------------------------------------------------------


def as_table(masks: Masks) -> pa.Table:
    """Masks with all that describes them, as `read_masks` reads them from a file."""
    height, width = masks.size
    packed = np.ascontiguousarray(masks.packed.numpy())
    found = [masks.cut, masks.knee, None if masks.loss is None else list(masks.loss)]
    columns = [
        pa.array(masks.image_id, pa.string()),
        *(
            pa.nulls(len(masks), field.type) if values is None else pa.array(values, field.type)
            for field, values in zip([*SCHEMA][1:], found, strict=True)
        ),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(packed.shape[1]), len(masks), [None, pa.py_buffer(packed)]),
    ]
    table = pa.table(columns, schema=SCHEMA.append(pa.field("mask", pa.binary(packed.shape[1]))))
    described = {**masks.metadata, "height": height, "width": width, "package_version": __version__}
    require(described, METADATA, masks.path)
    return table.replace_schema_metadata(encode(described, table.schema))


def write_masks(path: str | Path, masks: Masks) -> None:
    """Write masks in the form that `read_masks` reads."""
    write_parquet(path, as_table(masks), {}, compression="zstd")


def read_masks(path: str | Path, *, split: str | None = None) -> Masks:
    """Read masks. Raises ValueError naming the file and what is wrong: another split, a mask of the wrong size, a mask
    or an id that is missing, an id that comes twice."""
    _, metadata = read_parquet_in_pieces(path, SCHEMA, 1)
    require(metadata, METADATA, path)
    if (split or metadata["split"]) != metadata["split"]:
        raise ValueError(f"{path}: holds the {metadata['split']} split, expected {split}")
    size = (metadata["height"], metadata["width"])
    n_bytes = -(-size[0] * size[1] // 8)
    found = pq.read_schema(path)
    if "mask" in found.names and found.field("mask").type != pa.binary(n_bytes):
        raise ValueError(
            f"{path}: masks are {found.field('mask').type}, but {size[0]} x {size[1]} pixels (height x width) take "
            f"fixed_size_binary[{n_bytes}]"
        )
    table, _ = read_parquet(path, SCHEMA.append(pa.field("mask", pa.binary(n_bytes))))
    for column in ("image_id", "mask"):
        if table[column].null_count:
            raise ValueError(f"{path}: column {column!r} has an empty cell in row {_first_null(table[column])}")
    image_id = tuple(table["image_id"].to_pylist())
    repeated = sorted(name for name, count in Counter(image_id).items() if count > 1)
    if repeated:
        raise ValueError(f"{path}: image id {repeated[0]!r} is not unique")
    cut_out = table["cut"].null_count == 0 and len(table) > 0
    packed = table["mask"].combine_chunks()
    packed = packed.chunk(0) if isinstance(packed, pa.ChunkedArray) else packed
    bits = np.frombuffer(packed.buffers()[1], np.uint8, len(table) * n_bytes, packed.offset * n_bytes)
    return Masks(
        image_id=image_id,
        packed=torch.from_numpy(bits.reshape(-1, n_bytes).copy()),
        size=size,
        cut=table["cut"].to_numpy() if cut_out else None,
        knee=table["knee"].to_numpy() if cut_out else None,
        loss=np.stack(table["loss"].to_numpy()) if cut_out else None,
        metadata={key: metadata[key] for key in METADATA if key not in ("height", "width")},
        path=str(path),
    )


def _first_null(column: pa.ChunkedArray) -> int:
    return column.is_null().to_pylist().index(True)

"""Embeddings: the features of one split with the labels of its images, and their Parquet file."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hsfm import __version__
from hsfm.files import read_parquet, require, write_parquet

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("group", pa.int32()),
        ("split", pa.string()),
        ("feature", pa.list_(pa.float32(), -1)),  # fixed_size_list of any length
    ]
)
METADATA = (
    "dataset", "split", "backbone", "transform", "d", "class_names", "attribute_names", "checkpoint_sha256",
    "package_version",
)  # fmt: skip


@dataclass(frozen=True)
class Embeddings:
    features: Float[Tensor, "n d"]  # the backbone's pooled output
    y: Int[Tensor, " n"]  # class
    attribute: Int[Tensor, " n"]  # spurious attribute, -1 where unknown
    image_id: tuple[str, ...]
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    dataset: str = ""
    split: str = ""
    checkpoint_sha256: str = ""  # of the network that made the features
    details: Mapping[str, Any] = field(default_factory=dict)  # backbone, transform

    @property
    def group(self) -> Int[Tensor, " n"]:
        """y * n_attributes + attribute, -1 where the attribute is unknown."""
        return torch.where(self.attribute < 0, -1, self.y * self.n_attributes + self.attribute)

    def to(self, device: torch.device) -> "Embeddings":
        """The same rows on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("features", "y", "attribute")}
        return replace(self, **moved)

    def take(self, rows: Int[Tensor, " k"]) -> "Embeddings":
        """These rows alone, in this order."""
        picked = {name: getattr(self, name)[rows] for name in ("features", "y", "attribute")}
        return replace(self, **picked, image_id=tuple(self.image_id[i] for i in rows.tolist()))

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def n_attributes(self) -> int:
        return max(len(self.attribute_names), 1)

    @property
    def n_groups(self) -> int:
        return self.n_classes * self.n_attributes

    def refuse_test(self, purpose: str) -> None:
        """Raise ValueError where these are the test split, which nothing may train on."""
        if self.split == "test":
            raise ValueError(f"{purpose} was given the test split of {self.dataset}; it trains on train and val")

    def require_attributes(self, purpose: str) -> None:
        """Raise ValueError unless the attribute of every row is known."""
        unknown = (self.attribute < 0).nonzero()
        if len(unknown):
            raise ValueError(
                f"{purpose} needs the attribute of every {self.split or 'given'} image; "
                f"{len(unknown)} of {len(self.y)} lack it, first {self.image_id[int(unknown[0])]!r}"
            )


@torch.inference_mode()
def extract(features: Callable[[Any], Tensor], batches: Iterable[Any]) -> Float[Tensor, "n d"]:
    """Features of all batches, which lie on the network's device, one after the other, in float32 on the CPU.

    The network behind `features` has to be in eval mode; then the rows do not depend on the batch size, up to the
    order in which a matrix product sums (about 1e-6 relative).
    """
    return torch.cat([features(batch).float().cpu() for batch in batches])


def check_embeddings(embeddings: Embeddings, source: str | Path) -> Embeddings:
    """Return sound embeddings; raise ValueError naming `source` and the row otherwise."""
    # one pass says whether there is any: a sum keeps NaN and infinity
    if not embeddings.features.sum(dtype=torch.float64).isfinite():
        bad = (~embeddings.features.isfinite()).any(dim=1).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(f"{source}: row {row} (image {embeddings.image_id[row]!r}) holds a NaN or an infinity")
    for name, values, low, names in (
        ("y", embeddings.y, 0, embeddings.class_names),
        ("attribute", embeddings.attribute, -1, embeddings.attribute_names),
    ):
        bad = ((values < low) | (values >= len(names))).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"{source}: row {row} (image {embeddings.image_id[row]!r}) has {name} {int(values[row])}; "
                f"allowed are 0 to {len(names) - 1} ({', '.join(names)})"
            )
    repeated = sorted(name for name, count in Counter(embeddings.image_id).items() if count > 1)
    if repeated:
        raise ValueError(f"{source}: image id {repeated[0]!r} is not unique")
    present = torch.bincount(embeddings.y, minlength=embeddings.n_classes)
    for y, count in enumerate(present.tolist()):
        if count == 0:
            raise ValueError(f"{source}: class {y} ({embeddings.class_names[y]}) has no image")
    return embeddings


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write checked embeddings in the Parquet form that `read_embeddings` reads."""
    check_embeddings(embeddings, path)
    n, d = embeddings.features.shape
    flat = pa.array(embeddings.features.cpu().numpy().astype(np.float32, copy=False).reshape(-1))
    table = pa.table(
        [
            pa.array(embeddings.image_id, pa.string()),
            pa.array(embeddings.y.numpy(), pa.int32()),
            _nullable(embeddings.attribute),
            _nullable(embeddings.group),
            pa.array([embeddings.split] * n, pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, d),
        ],
        names=SCHEMA.names,
    )
    metadata = {
        "dataset": embeddings.dataset,
        "split": embeddings.split,
        "d": d,
        "class_names": embeddings.class_names,
        "attribute_names": embeddings.attribute_names,
        "checkpoint_sha256": embeddings.checkpoint_sha256,
        "backbone": embeddings.details.get("backbone"),
        "transform": embeddings.details.get("transform"),
        "package_version": __version__,
    }
    write_parquet(path, table, metadata)


def read_embeddings(path: str | Path, *, split: str | None = None) -> Embeddings:
    """Read embeddings; the features are one `[n d]` tensor over the file's own buffer where it holds one row group.

    split: which one it has to be. Raises ValueError naming file and row for another split, a missing column, a wrong
    type, a feature of another length than the metadata say, a NaN, a label outside the classes, a class without image,
    a repeated id, or a file that is not whole.
    """
    table, metadata = read_parquet(path, SCHEMA)
    require(metadata, METADATA, path)
    for found in (metadata["split"], *table["split"].unique().to_pylist()):
        if found != (split or metadata["split"]):
            raise ValueError(f"{path}: holds the {found} split, expected {split or metadata['split']}")
    feature, d = table["feature"], metadata["d"]
    if feature.type.list_size != d:
        raise ValueError(f"{path}: features have length {feature.type.list_size}, but the metadata say d = {d}")
    if feature.null_count:
        row = feature.is_null().to_pylist().index(True)
        raise ValueError(f"{path}: row {row} (image {table['image_id'][row].as_py()!r}) has no feature")
    chunks = [torch.from_dlpack(chunk.flatten()).view(-1, d) for chunk in feature.chunks if len(chunk)]
    if not chunks:
        raise ValueError(f"{path}: holds no row")
    for column in ("image_id", "y"):
        if table[column].null_count:
            raise ValueError(f"{path}: column {column!r} has an empty cell in row "
                             f"{table[column].is_null().to_pylist().index(True)}")  # fmt: skip
    return check_embeddings(
        Embeddings(
            features=chunks[0] if len(chunks) == 1 else torch.cat(chunks),
            y=_labels(table["y"]),
            attribute=_labels(table["attribute"]),
            image_id=tuple(table["image_id"].to_pylist()),
            class_names=tuple(metadata["class_names"]),
            attribute_names=tuple(metadata["attribute_names"]),
            dataset=metadata["dataset"],
            split=metadata["split"],
            checkpoint_sha256=metadata["checkpoint_sha256"],
            details={key: metadata[key] for key in ("backbone", "transform")},
        ),
        path,
    )


def _nullable(labels: Tensor) -> pa.Array:
    values = labels.numpy()
    return pa.array(values, pa.int32(), mask=values < 0)


def _labels(column: pa.ChunkedArray) -> Int[Tensor, " n"]:
    return torch.tensor(column.fill_null(-1).to_numpy(), dtype=torch.int64)


def check_same_origin(first: Embeddings, second: Embeddings) -> None:
    """Raise ValueError unless two splits come from one checkpoint and agree on d, classes and known attributes."""
    for what, a, b in (
        ("d", first.features.shape[1], second.features.shape[1]),
        ("classes", first.class_names, second.class_names),
        ("checkpoint", first.checkpoint_sha256, second.checkpoint_sha256),
        ("attributes", *_known(first.attribute_names, second.attribute_names)),
    ):
        if a != b:
            raise ValueError(
                f"{first.split or 'first'} and {second.split or 'second'} embeddings differ in {what}: {a} and {b}"
            )


def _known(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Attribute names of both; where one has none there is nothing to agree on."""
    return (first, second) if first and second else ((), ())


def minority_rows(train: Embeddings, val: Embeddings) -> Bool[Tensor, " n"] | None:
    """Which rows of val are minority: their attribute is rarer within their class than in all of train.

    None where an attribute of train or val is unknown.
    """
    if (train.attribute < 0).any() or (val.attribute < 0).any():
        return None
    count = torch.bincount(train.group, minlength=train.n_groups).view(train.n_classes, train.n_attributes)
    # p(a|y) < p(a), multiplied out so that equal shares compare as equal
    rarer = count * count.sum() < count.sum(dim=1, keepdim=True) * count.sum(dim=0, keepdim=True)
    return rarer[val.y, val.attribute]

"""Embeddings: the features of one split with the labels of its images, and their Parquet file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from hsfm import __version__
from hsfm.core.files import open_parquet, read_parquet, require, write_parquet
from hsfm.core.settings import FrozenSettings
from hsfm.core.text import few
from hsfm.data.table import is_minority
from hsfm.features.standardize import StandardizationSettings

ROWS = pa.schema({"image_id": "string", "y": "int32", "attribute": "int32", "group": "int32", "split": "string"})
NUMBERS = pa.list_(pa.float32(), -1)  # fixed_size_list of any length
SCHEMA = ROWS.append(pa.field("feature", NUMBERS))
EXTRA = ("early_logits",)  # names in Embeddings.extra; each a column `[n c]` that a file may lack
TENSORS = ("features", "y", "attribute")
ROWS_AT_ONCE = 1024  # of features that are read or written, beside the whole
FIELDS = ("dataset", "split", "class_names", "attribute_names", "checkpoint_sha256")  # of Embeddings, in the metadata
DETAILS = ("backbone", "transform", "precision")
METADATA = (*FIELDS, "backbone", "transform", "d", "package_version")

GivenFile = Annotated[str, Field(min_length=1)]


class EmbeddingSettings(FrozenSettings):
    """Features of all splits, in eval mode; or files that hold them already."""

    batch_size: PositiveInt | None = Field(None, description="Images per forward pass.")
    standardize: StandardizationSettings | None = Field(
        None,
        description="Bring the features of a frozen backbone to mean 0 and one spread, measured on train; null for "
        "none.",
    )
    min_group: PositiveInt = Field(
        1, description="Groups of fewer images of a split do not count for its worst group, in tables and selection."
    )
    train: GivenFile | None = Field(
        None, description="Your own features, Parquet as hsfm writes it, or npz with x, y and attribute."
    )
    val: GivenFile | None = Field(None, description="The same of validation.")
    test: GivenFile | None = Field(None, description="The same of test.")


class NotApplicable(ValueError):
    """The data lack what a method needs: its row is left out with this reason, and the others stay."""


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
    details: Mapping[str, Any] = field(default_factory=dict)  # backbone, transform, precision
    # of several attributes, by name, the value of each in every one of attribute_names; empty where there is one
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    min_group: int = 1  # a smaller group of a split does not count for its worst group
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # by row, what some methods need: `early_logits` [n c]

    @property
    def group(self) -> Int[Tensor, " n"]:
        """y * n_attributes + attribute, -1 where the attribute is unknown."""
        return torch.where(self.attribute < 0, -1, self.y * self.n_attributes + self.attribute)

    @property
    def value_groups(self) -> list[tuple[Int[Tensor, " n"], int]]:
        """For each attribute alone, y * n_values + value of every row (-1 where unknown), and the number of groups.

        `group` where there is one attribute.
        """
        groups = []
        for values in self.cells.values():
            numbers, names = pd.factorize(np.array(values, object))
            value = torch.from_numpy(numbers).to(self.y.device)[self.attribute.clamp(min=0)]
            group = torch.where(self.attribute < 0, -1, self.y * len(names) + value)
            groups.append((group, self.n_classes * len(names)))
        return groups or [(self.group, self.n_groups)]

    def to(self, device: torch.device) -> "Embeddings":
        return self._each(lambda tensor: tensor.to(device))

    def take(self, rows: Int[Tensor, " k"]) -> "Embeddings":
        """These rows alone, in this order."""
        picked = self._each(lambda tensor: tensor[rows])
        return replace(picked, image_id=tuple(self.image_id[i] for i in rows.tolist()))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Embeddings":
        """The same with every tensor of rows changed."""
        changed = {name: change(getattr(self, name)) for name in TENSORS}
        return replace(self, **changed, extra={name: change(values) for name, values in self.extra.items()})

    def without_attributes(self) -> "Embeddings":
        return replace(self, attribute=torch.full_like(self.attribute, -1))

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def n_attributes(self) -> int:
        return max(len(self.attribute_names), 1)

    @property
    def n_groups(self) -> int:
        return self.n_classes * self.n_attributes

    @property
    def where(self) -> str:
        """The rows in words, for errors: `mine train`."""
        return f"{self.dataset} {self.split or 'rows'}".strip()

    def refuse_test(self, purpose: str) -> None:
        if self.split == "test":
            raise ValueError(f"{purpose} was given the test split of {self.dataset}; it trains on train and val")

    def require_attributes(self, purpose: str) -> None:
        """Raise NotApplicable unless the attribute of every row is known."""
        unknown = (self.attribute < 0).nonzero()
        if len(unknown):
            raise NotApplicable(
                f"{purpose} needs the attribute of every {self.split or 'given'} image; "
                f"{len(unknown)} of {len(self.y)} lack it, first {self.image_id[int(unknown[0])]!r}"
            )

    def require_extra(self, purpose: str, names: Sequence[str]) -> None:
        """Raise NotApplicable unless `extra` has these names."""
        for name in names:
            if name not in self.extra:
                way_out = f"set erm: early_epoch, or give {name} in your file"
                raise NotApplicable(f"{purpose} needs {name} of every {self.split or 'given'} image: {way_out}")


def joined(*parts: Embeddings) -> Embeddings:
    """The rows of all parts, one after the other, with the extras that all have; what is not by row is the first's."""
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
    shared = [name for name in parts[0].extra if all(name in part.extra for part in parts)]
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in shared}
    return replace(parts[0], **tensors, image_id=tuple(name for part in parts for name in part.image_id), extra=extra)


def check_embeddings(embeddings: Embeddings, source: str | Path, *, whole: bool = True) -> Embeddings:
    """Return sound embeddings; raise ValueError naming `source` and the row otherwise.

    whole: whether they are all of a split, or a share of it, which may lack a class or have no row at all.
    """
    ids = embeddings.image_id
    if not ids:
        if whole:
            raise ValueError(f"{source}: holds no row")
        return embeddings
    faults = [(~_finite(embeddings.features), "holds a NaN or an infinity")]
    for name, values in embeddings.extra.items():
        expected = (len(ids), len(embeddings.class_names))
        if name not in EXTRA or values.shape != expected:
            raise ValueError(
                f"{source}: {name} is {list(values.shape)}, expected {list(expected)}, a number per image and class, "
                f"under the name {' or '.join(EXTRA)}"
            )
        faults.append((~_finite(values), f"has a NaN or an infinity in {name}"))
    for name, least, names in (("y", 0, embeddings.class_names), ("attribute", -1, embeddings.attribute_names)):
        values = getattr(embeddings, name)
        bad = (values < least) | (values >= len(names))
        first = next(iter(values[bad].tolist()), None)
        faults.append((bad, f"has {name} {first}; allowed are 0 to {len(names) - 1} ({few(names)})"))
    for bad, fault in faults:
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(f"{source}: row {row} (image {ids[row]!r}) {fault}")
    repeated = pd.Series(ids).duplicated()
    if repeated.any():
        raise ValueError(f"{source}: image id {ids[repeated.argmax()]!r} is not unique")
    for y, name in enumerate(embeddings.class_names if whole else ()):
        if not (embeddings.y == y).any():
            raise ValueError(f"{source}: class {y} ({name}) has no image")
    return embeddings


def _finite(values: Float[Tensor, "n k"]) -> Bool[Tensor, " n"]:
    sound = values.sum(dim=1).isfinite()  # NaN and infinity stay in a sum, which takes a twentieth of looking at each
    if not sound.all():  # or the sum overflowed
        sound[~sound] = values[~sound].isfinite().all(dim=1)
    return sound


def write_embeddings(path: str | Path, embeddings: Embeddings, *, whole: bool = True) -> None:
    """Write embeddings, checked as `check_embeddings` does, in the Parquet form that `read_embeddings` reads."""
    check_embeddings(embeddings, path, whole=whole)
    n, d = embeddings.features.shape
    attribute, group = embeddings.attribute.numpy(), embeddings.group.numpy()
    columns = [
        pa.array(embeddings.image_id, pa.string()),
        pa.array(embeddings.y.numpy(), pa.int32()),
        pa.array(attribute, pa.int32(), mask=attribute < 0),
        pa.array(group, pa.int32(), mask=group < 0),
        pa.array([embeddings.split] * n, pa.string()),
        *map(_lists, (embeddings.features, *embeddings.extra.values())),
    ]
    metadata = {"d": d, "package_version": __version__, **{key: getattr(embeddings, key) for key in FIELDS}}
    metadata |= {key: embeddings.details.get(key) for key in DETAILS}
    metadata |= {"cells": dict(embeddings.cells)} if embeddings.cells else {}
    metadata |= {"min_group": embeddings.min_group} if embeddings.min_group > 1 else {}
    # features are as good as random: looking for repetitions in them takes time and finds none
    options = {"row_group_size": ROWS_AT_ONCE, "compression": "none", "use_dictionary": ["split"]}
    write_parquet(path, pa.table(columns, names=[*SCHEMA.names, *embeddings.extra]), metadata, **options)


def _lists(values: Float[Tensor, "n k"]) -> pa.FixedSizeListArray:
    flat = values.cpu().numpy().astype(np.float32, copy=False).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), values.shape[1])


def read_embeddings(path: str | Path, *, split: str | None = None, whole: bool = True) -> Embeddings:
    """Read embeddings; the features are one `[n d]` tensor.

    split: which one it has to be. Raises ValueError naming the file for another split, features of another length than
    its metadata say, and as `open_parquet` and `check_embeddings` do.
    """
    table, metadata = read_parquet(path, ROWS)
    require(metadata, METADATA, path)
    if split and metadata["split"] != split:
        raise ValueError(f"{path}: holds the {metadata['split']} split, expected {split}")
    with open_parquet(path) as file:
        there = [name for name in EXTRA if name in file.schema_arrow.names]
    widths = {"feature": metadata["d"], **dict.fromkeys(there, len(metadata["class_names"]))}
    with open_parquet(path, pa.schema(dict.fromkeys(widths, NUMBERS))) as file:
        found = {name: _read_lists(file, name, len(table), width, path) for name, width in widths.items()}
    labels = {name: torch.tensor(table[name].fill_null(-1).to_numpy()).long() for name in ("y", "attribute")}
    embeddings = Embeddings(
        features=found.pop("feature"),
        **labels,
        image_id=tuple(table["image_id"].to_pylist()),
        details={key: metadata[key] for key in DETAILS if metadata.get(key) is not None},
        extra=found,
        cells={name: tuple(values) for name, values in metadata.get("cells", {}).items()},
        min_group=metadata.get("min_group", 1),
        **{key: tuple(metadata[key]) if key.endswith("names") else metadata[key] for key in FIELDS},
    )
    return check_embeddings(embeddings, path, whole=whole)


def _read_lists(file: pq.ParquetFile, name: str, n: int, width: int, path: str | Path) -> Float[Tensor, "n k"]:
    """A column of n lists of `width` numbers."""
    values, first = torch.empty(n, width), 0
    # a row group at a time: read as one column the features would lie in memory three times
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number, [name])[name]
        length = pc.list_value_length(rows).fill_null(0).to_numpy()
        if (length != width).any():
            row = int((length != width).argmax())
            raise ValueError(f"{path}: row {first + row} has {length[row]} numbers in {name!r}, expected {width}")
        flat = rows.combine_chunks().flatten()
        values[first : first + len(rows)] = torch.from_dlpack(flat).view(len(rows), width)
        first += len(rows)
    return values


def check_same_origin(first: Embeddings, second: Embeddings) -> None:
    """Raise ValueError unless two splits come from one checkpoint and agree on d, classes and known attributes."""
    attributes = (first.attribute_names, second.attribute_names)
    for what, a, b in (
        ("d", first.features.shape[1], second.features.shape[1]),
        ("classes", first.class_names, second.class_names),
        ("checkpoint", first.checkpoint_sha256, second.checkpoint_sha256),
        ("attributes", *(attributes if all(attributes) else ((), ()))),
    ):
        if a != b:
            shown = " and ".join(f"({few(of)})" if isinstance(of, tuple) else str(of) for of in (a, b))
            raise ValueError(
                f"{first.split or 'first'} and {second.split or 'second'} embeddings differ in {what}: {shown}"
            )


def minority_rows(train: Embeddings, val: Embeddings) -> Bool[Tensor, " n"] | None:
    """Which rows of val are minority: their attribute is rarer within their class than in all of train.

    None where an attribute of train or val is unknown.
    """
    if (train.attribute < 0).any() or (val.attribute < 0).any():
        return None
    count = torch.bincount(train.group, minlength=train.n_groups).view(train.n_classes, train.n_attributes)
    return is_minority(count)[val.y, val.attribute]

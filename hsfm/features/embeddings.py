"""Embeddings: the features of one split with the labels of its images, and their Parquet file."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from hsfm import __version__
from hsfm.core.device import fetch, out_of_memory
from hsfm.core.files import encode, read_parquet_in_pieces, require, write_atomically
from hsfm.core.minority import is_minority
from hsfm.core.settings import FrozenSettings
from hsfm.features.standardize import StandardizationSettings

log = logging.getLogger(__name__)

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
DETAILS = ("backbone", "transform", "precision")
ROWS_SUMMED = 4096  # at once, since torch casts what it sums to float64 first
ROW_GROUP_BYTES = 2**21  # of features; what is held back while a file is written
METADATA = (
    "dataset", "split", "backbone", "transform", "d", "class_names", "attribute_names", "checkpoint_sha256",
    "package_version",
)  # fmt: skip


GivenFile = Annotated[str, Field(min_length=1)]


class EmbeddingSettings(FrozenSettings):
    """Features of all splits, in eval mode; or files that hold them already."""

    batch_size: PositiveInt | None = Field(None, description="Images per forward pass.")
    standardize: StandardizationSettings | None = Field(
        None,
        description="Bring the features of a frozen backbone to mean 0 and one spread, measured on train; null for "
        "none.",
    )
    train: GivenFile | None = Field(
        None, description="Your own features, Parquet as hsfm writes it, or npz with x, y and attribute."
    )
    val: GivenFile | None = Field(None, description="The same of validation.")
    test: GivenFile | None = Field(None, description="The same of test.")


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

    def without_attributes(self) -> "Embeddings":
        """The same rows with every attribute unknown."""
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


def extract(features: Callable[[Any], Tensor], batches: Iterable[Any]) -> Iterator[Float[Tensor, "b d"]]:
    """Features of batches, which lie on the network's device, in float32 on the CPU, while the next are computed.

    A batch for which memory does not suffice is halved until it fits, and so are all that follow; what comes out then
    has as many rows. The network behind `features` has to be in eval mode; then the rows do not depend on the batch
    size, up to the order in which a matrix product sums (about 1e-6 relative).
    """
    yield from fetch(_as_it_fits(features, batches))


def _as_it_fits(features: Callable[[Any], Tensor], batches: Iterable[Any]) -> Iterator[Tensor]:
    largest = None
    for batch in batches:
        first = 0
        while first < len(batch):
            part = batch[first : first + (largest or len(batch))]
            try:
                with torch.inference_mode():
                    computed = features(part).float()
            except RuntimeError as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                computed = None
            if computed is None:  # tried again out here, where the error no longer holds on to what did not fit
                largest = (len(part) + 1) // 2
                log.warning("no memory for a batch of %d images; going on with %d", len(part), largest)
                continue
            yield computed
            first += len(part)


def check_rows(embeddings: Embeddings, source: str | Path, first: int = 0) -> Embeddings:
    """Return embeddings of which every row is sound; raise ValueError naming `source` and the row otherwise.

    first: the number of the first row, in messages.
    """
    # one pass says whether there is any: a sum keeps NaN and infinity
    parts = embeddings.features.split(ROWS_SUMMED)
    if not all(part.sum(dtype=torch.float64).isfinite() for part in parts):
        bad = (~embeddings.features.isfinite()).any(dim=1).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"{source}: row {first + row} (image {embeddings.image_id[row]!r}) holds a NaN or an infinity"
            )
    for name, values, low, names in (
        ("y", embeddings.y, 0, embeddings.class_names),
        ("attribute", embeddings.attribute, -1, embeddings.attribute_names),
    ):
        bad = ((values < low) | (values >= len(names))).nonzero()
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"{source}: row {first + row} (image {embeddings.image_id[row]!r}) has {name} {int(values[row])}; "
                f"allowed are 0 to {len(names) - 1} ({', '.join(names)})"
            )
    return embeddings


def check_embeddings(embeddings: Embeddings, source: str | Path) -> Embeddings:
    """Return sound embeddings; raise ValueError naming `source` and the row otherwise."""
    check_rows(embeddings, source)
    repeated = sorted(name for name, count in Counter(embeddings.image_id).items() if count > 1)
    if repeated:
        raise ValueError(f"{source}: image id {repeated[0]!r} is not unique")
    _check_classes(torch.bincount(embeddings.y, minlength=embeddings.n_classes), embeddings.class_names, source)
    return embeddings


def _check_classes(present: Int[Tensor, " c"], names: tuple[str, ...], source: str | Path) -> None:
    for y, count in enumerate(present.tolist()):
        if count == 0:
            raise ValueError(f"{source}: class {y} ({names[y]}) has no image")


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write checked embeddings in the Parquet form that `read_embeddings` reads."""
    check_embeddings(embeddings, path)
    write_pieces(path, [embeddings])


def write_pieces(path: str | Path, pieces: Iterable[Embeddings], *, whole: bool = True) -> None:
    """Write embeddings that come piece by piece, so that memory does not grow with their number.

    The file is the same however they are cut. whole: whether they are all of a split, or a share of it, which may lack
    a class, or have no row at all. Raises ValueError where a row is not sound, or a class of a whole split has no
    image; that no image comes twice is the caller's word.
    """
    writer, n = None, 0
    # features are as good as random: looking for repetitions in them takes time and finds none
    options = {"use_dictionary": ["split"], "compression": dict.fromkeys(SCHEMA.names[:-1], "snappy")}
    options["write_page_checksum"] = True
    options["compression"][f"{SCHEMA.names[-1]}.list.element"] = "none"
    with write_atomically(path) as temporary, ExitStack() as stack:
        for group in _row_groups(pieces):
            if writer is None:
                present = torch.zeros(group.n_classes, dtype=torch.int64)
                schema = _table(group).schema
                schema = schema.with_metadata(encode(_described(group), schema))
                writer = stack.enter_context(pq.ParquetWriter(temporary, schema, **options))
            check_rows(group, path, n)
            n += len(group.y)
            present += torch.bincount(group.y, minlength=group.n_classes)
            writer.write_table(_table(group), row_group_size=len(group.y))
            pa.default_memory_pool().release_unused()  # of what arrow has set aside
        if whole and writer is None:
            raise ValueError(f"{path}: holds no row")
        if whole:
            _check_classes(present, group.class_names, path)
        elif writer is None:
            pq.write_table(pa.table({}), temporary)


def _row_groups(pieces: Iterable[Embeddings]) -> Iterator[Embeddings]:
    """The same rows in groups of `ROW_GROUP_BYTES` of features, however the pieces are cut; the last may be shorter.

    A group is valid until the next is asked for: its features lie in one buffer, since many small ones that wait side
    by side with large ones that come and go leave holes in the memory that it gets.
    """
    buffer, held, piece = None, [], None
    for piece in pieces:
        if buffer is None:
            d = piece.features.shape[1]
            buffer = torch.empty(max(ROW_GROUP_BYTES // (4 * d), 1), d)
            filled = 0
        first = 0
        while first < len(piece.y):
            part = slice(first, first + len(buffer) - filled)
            rows = piece.features[part]
            buffer[filled : filled + len(rows)] = rows
            held.append((piece.y[part], piece.attribute[part], piece.image_id[part]))
            filled, first = filled + len(rows), first + len(rows)
            if filled == len(buffer):
                yield _joined(piece, buffer, held)
                held, filled = [], 0
    if held:
        yield _joined(piece, buffer[:filled], held)


def _joined(piece: Embeddings, features: Tensor, labels: list[tuple[Tensor, Tensor, tuple[str, ...]]]) -> Embeddings:
    """Features with the labels of several pieces, of which `piece` is one."""
    y, attribute, image_id = zip(*labels, strict=True)
    labels = {"y": torch.cat(y), "attribute": torch.cat(attribute), "image_id": tuple(chain(*image_id))}
    return replace(piece, features=features, **labels)


def _table(embeddings: Embeddings) -> pa.Table:
    n, d = embeddings.features.shape
    flat = pa.array(embeddings.features.cpu().numpy().astype(np.float32, copy=False).reshape(-1))
    columns = [
        pa.array(embeddings.image_id, pa.string()),
        pa.array(embeddings.y.numpy(), pa.int32()),
        _nullable(embeddings.attribute),
        _nullable(embeddings.group),
        pa.array([embeddings.split] * n, pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, d),
    ]
    return pa.table(columns, names=SCHEMA.names)


def _described(embeddings: Embeddings) -> dict[str, Any]:
    return {
        "dataset": embeddings.dataset,
        "split": embeddings.split,
        "d": embeddings.features.shape[1],
        "class_names": embeddings.class_names,
        "attribute_names": embeddings.attribute_names,
        "checkpoint_sha256": embeddings.checkpoint_sha256,
        **{key: embeddings.details.get(key) for key in DETAILS},
        "package_version": __version__,
    }


def read_embeddings(path: str | Path, *, split: str | None = None) -> Embeddings:
    """Read embeddings; the features are one `[n d]` tensor over the file's own buffer where it holds one row group.

    split: which one it has to be. Raises ValueError naming file and row for another split, a missing column, a wrong
    type, a feature of another length than the metadata say, a NaN, a label outside the classes, a class without image,
    a repeated id, or a file that is not whole.
    """
    features, labels, first, n = None, [], 0, 0
    for piece in read_pieces(path, split=split):
        if features is None:
            n, d = pq.read_metadata(path).num_rows, piece.features.shape[1]
            features = piece.features if len(piece.y) == n else torch.empty(n, d)
        if len(piece.y) < n:
            features[first : first + len(piece.y)] = piece.features
        first += len(piece.y)
        labels.append((piece.y, piece.attribute, piece.image_id))
    if features is None:
        raise ValueError(f"{path}: holds no row")
    return check_embeddings(_joined(piece, features, labels), path)


def read_pieces(path: str | Path, *, split: str | None = None) -> Iterator[Embeddings]:
    """The same, a row group at a time, each row checked as `check_rows` does; no class need be there."""
    groups, metadata = read_parquet_in_pieces(path, SCHEMA, 2**31 - 1)
    require(metadata, METADATA, path)
    d, first = metadata["d"], 0
    if (split or metadata["split"]) != metadata["split"]:
        raise ValueError(f"{path}: holds the {metadata['split']} split, expected {split}")
    for table in groups:
        for found in table["split"].unique().to_pylist():
            if found != metadata["split"]:
                raise ValueError(f"{path}: holds the {found} split, expected {metadata['split']}")
        feature = table["feature"]
        if feature.type.list_size != d:
            raise ValueError(f"{path}: features have length {feature.type.list_size}, but the metadata say d = {d}")
        if feature.null_count:
            row = feature.is_null().to_pylist().index(True)
            raise ValueError(f"{path}: row {first + row} (image {table['image_id'][row].as_py()!r}) has no feature")
        for column in ("image_id", "y"):
            if table[column].null_count:
                row = first + table[column].is_null().to_pylist().index(True)
                raise ValueError(f"{path}: column {column!r} has an empty cell in row {row}")
        piece = Embeddings(
            features=torch.from_dlpack(feature.flatten()).view(-1, d),
            y=_labels(table["y"]),
            attribute=_labels(table["attribute"]),
            image_id=tuple(table["image_id"].to_pylist()),
            class_names=tuple(metadata["class_names"]),
            attribute_names=tuple(metadata["attribute_names"]),
            dataset=metadata["dataset"],
            split=metadata["split"],
            checkpoint_sha256=metadata["checkpoint_sha256"],
            details={key: metadata[key] for key in DETAILS if metadata.get(key) is not None},
        )
        yield check_rows(piece, path, first)
        first += len(piece.y)


def _nullable(labels: Tensor) -> pa.Array:
    values = labels.numpy()
    return pa.array(values, pa.int32(), mask=values < 0)


def _labels(column: pa.Array) -> Int[Tensor, " n"]:
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
    return is_minority(count)[val.y, val.attribute]

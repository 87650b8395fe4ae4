"""Embeddings that a user has already: feature matrices from elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256 as digest_of
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Shaped

from hsfm.embeddings import METADATA, Embeddings, check_embeddings, check_same_origin, read_embeddings
from hsfm.files import sha256


@dataclass(frozen=True)
class _Table:
    source: str
    features: Float32[np.ndarray, "n d"]
    y: Shaped[np.ndarray, " n"]  # names or numbers
    attribute: Shaped[np.ndarray, " n"]  # likewise, missing where unknown
    image_id: tuple[str, ...]


def import_embeddings(paths: Mapping[str, str | Path], dataset: str) -> dict[str, Embeddings]:
    """Embeddings by split, from files of one kind.

    Parquet that hsfm wrote is read as it is. Other Parquet has the columns `feature` (a list of numbers per row), `y`,
    and where there are any `attribute` and `image_id`; npz the arrays `x` [n d], `y` [n] and `attribute` [n]. There, y
    and attribute are names or numbers; the classes are the sorted labels of all splits, and an attribute that is
    missing (null, NaN, -1 or an empty text) is unknown.

    Raises ValueError naming the file for anything that is missing, of the wrong shape or type, NaN, or at odds with
    another split.
    """
    if all(_is_ours(path) for path in paths.values()):
        splits = {split: read_embeddings(path, split=split) for split, path in paths.items()}
    else:
        splits = _from_tables({split: _read_table(path, split) for split, path in paths.items()}, dataset)
    first, *others = splits.values()
    for other in others:
        check_same_origin(first, other)
    return splits


def _is_ours(path: str | Path) -> bool:
    if Path(path).suffix != ".parquet":
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError):
        return True  # not readable: `read_embeddings` says why
    return all(key.encode() in metadata for key in METADATA)


def _read_table(path: str | Path, split: str) -> _Table:
    if Path(path).suffix == ".npz":
        columns = _read_npz(path)
    elif Path(path).suffix == ".parquet":
        columns = _read_parquet(path)
    else:
        raise ValueError(f"{path}: is neither .parquet nor .npz")
    features, y = columns["feature"], columns["y"]
    n = len(y)
    if features.ndim != 2 or len(features) != n or y.ndim != 1 or n == 0:
        raise ValueError(
            f"{path}: features {list(features.shape)} and y {list(y.shape)} are not [n d] and [n] with n at least 1"
        )
    attribute = columns.get("attribute", np.full(n, -1))
    if attribute.shape != (n,):
        raise ValueError(f"{path}: attribute {list(attribute.shape)} is not [{n}] like y")
    if pd.isna(y).any():
        raise ValueError(f"{path}: row {int(pd.isna(y).argmax())} has no class")
    image_id = columns.get("image_id", np.array([f"{split}-{i:07d}" for i in range(n)]))
    attribute = attribute.astype(object)
    attribute[pd.isna(attribute) | (attribute == "") | (attribute == -1)] = None
    return _Table(str(path), features.astype(np.float32), y, attribute, tuple(map(str, image_id)))


def _read_npz(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: not a readable npz file ({error})") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"{path}: no array {name!r}; the arrays are {', '.join(arrays)}")
    return {"feature": arrays.pop("x"), **arrays}


def _read_parquet(path: str | Path) -> dict[str, np.ndarray]:
    frame = pd.read_parquet(path)
    for name in ("feature", "y"):
        if name not in frame:
            raise ValueError(f"{path}: no column {name!r}; the columns are {', '.join(frame)}")
    lengths = frame["feature"].map(np.size)
    if (lengths != lengths.iloc[0]).any():
        row = int((lengths != lengths.iloc[0]).to_numpy().argmax())
        raise ValueError(f"{path}: row {row} has {lengths.iloc[row]} features, the first row {lengths.iloc[0]}")
    columns = {name: frame[name].to_numpy() for name in ("y", "attribute", "image_id") if name in frame}
    return {"feature": np.stack(frame["feature"].to_list()), **columns}


def _from_tables(tables: Mapping[str, _Table], dataset: str) -> dict[str, Embeddings]:
    classes = _names([table.y for table in tables.values()])
    attributes = _names([table.attribute for table in tables.values()])
    # what stands for the network that made them: the files themselves
    origin = digest_of("".join(sha256(table.source) for table in tables.values()).encode()).hexdigest()
    return {
        split: check_embeddings(
            Embeddings(
                features=torch.from_numpy(table.features),
                y=_codes(table.y, classes),
                attribute=_codes(table.attribute, attributes),
                image_id=table.image_id,
                class_names=tuple(classes),
                attribute_names=tuple(attributes),
                dataset=dataset,
                split=split,
                checkpoint_sha256=origin,
                details={"backbone": "unknown", "transform": None},
            ),
            table.source,
        )
        for split, table in tables.items()
    }


def _names(columns: list[np.ndarray]) -> list[str]:
    """Sorted labels as texts, numbers by size; missing ones left out."""
    labels = pd.unique(pd.concat([pd.Series(column) for column in columns]))
    known = [label for label in labels if not pd.isna(label)]
    if all(isinstance(label, (int, float, np.number)) for label in known):
        known = sorted(known, key=float)
    else:
        known = sorted(known, key=str)
    return [_text(label) for label in known]


def _codes(column: np.ndarray, names: list[str]) -> torch.Tensor:
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if pd.isna(label) else place[_text(label)] for label in column.tolist()])


def _text(label: object) -> str:
    """1, 1.0 and numpy's 1 are one label."""
    return str(int(label)) if not isinstance(label, str) and float(label).is_integer() else str(label)

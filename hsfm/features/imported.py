"""Import of feature matrices that a user already has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256 as digest_of
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Shaped

from hsfm.core.files import sha256
from hsfm.features.embeddings import METADATA, Embeddings, check_embeddings, check_same_origin, read_embeddings


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
    digests = {split: sha256(path) for split, path in paths.items()}
    for split, other in combinations(paths, 2):
        if digests[split] == digests[other]:
            raise ValueError(f"{paths[other]}: the {other} split is the same file as {split}, {paths[split]}")
    if all(_is_ours(path) for path in paths.values()):
        splits = {split: read_embeddings(path, split=split) for split, path in paths.items()}
    else:
        splits = _from_tables({split: _read_table(path, split) for split, path in paths.items()}, digests)
    first, *others = splits.values()
    for other in others:
        check_same_origin(first, other)
    return {split: replace(embeddings, dataset=dataset) for split, embeddings in splits.items()}


def _is_ours(path: str | Path) -> bool:
    if Path(path).suffix != ".parquet":
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError):
        return True  # not readable: `read_embeddings` says why
    return all(key.encode() in metadata for key in METADATA)


def _read_table(path: str | Path, split: str) -> _Table:
    """One split; every error names the file."""
    if Path(path).suffix not in (".npz", ".parquet"):
        raise ValueError(f"{path}: is neither .parquet nor .npz")
    try:
        columns = (_read_npz if Path(path).suffix == ".npz" else _read_parquet)(path)
        return _check_columns(columns, str(path), split)
    except FileNotFoundError:
        raise
    except Exception as error:  # of numpy, pandas and pyarrow on whatever the file holds
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {reason}") from error


def _check_columns(columns: Mapping[str, np.ndarray], source: str, split: str) -> _Table:
    features, y = columns["feature"], columns["y"]
    n = y.size
    if features.ndim != 2 or y.ndim != 1 or len(features) != n or n == 0:
        raise ValueError(f"features {list(features.shape)} and y {list(y.shape)} are not [n d] and [n], n at least 1")
    if not (np.issubdtype(features.dtype, np.floating) or np.issubdtype(features.dtype, np.integer)):
        raise ValueError(f"features are {features.dtype}, expected numbers")
    labels = {"y": y.astype(object), "attribute": columns.get("attribute", np.full(n, -1)).astype(object)}
    image_id = columns.get("image_id", np.array([f"{split}-{i:07d}" for i in range(n)]))
    for name, column in (*labels.items(), ("image_id", image_id)):
        if column.shape != (n,):
            raise ValueError(f"{name} {list(column.shape)} is not [{n}] like y")
    for name, column in labels.items():
        column[pd.isna(column)] = None
        for row, label in enumerate(column.tolist()):
            if label is not None and (not isinstance(label, str | int | float) or label in (np.inf, -np.inf)):
                raise ValueError(f"row {row} has {name} {label!r}, expected a text or a number")
    if None in labels["y"].tolist():
        raise ValueError(f"row {labels['y'].tolist().index(None)} has no class")
    attribute = labels["attribute"]
    attribute[(attribute == "") | (attribute == -1)] = None
    return _Table(source, features.astype(np.float32), labels["y"], attribute, tuple(map(str, image_id)))


def _read_npz(path: str | Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for name in ("x", "y"):
        if name not in arrays:
            raise ValueError(f"no array {name!r}; the arrays are {', '.join(arrays)}")
    return {"feature": arrays.pop("x"), **arrays}


def _read_parquet(path: str | Path) -> dict[str, np.ndarray]:
    frame = pd.read_parquet(path)
    for name in ("feature", "y"):
        if name not in frame:
            raise ValueError(f"no column {name!r}; the columns are {', '.join(frame)}")
    if frame.empty:
        raise ValueError("holds no row")
    lengths = frame["feature"].map(np.size)
    if (lengths != lengths.iloc[0]).any():
        row = int((lengths != lengths.iloc[0]).to_numpy().argmax())
        raise ValueError(f"row {row} has {lengths.iloc[row]} features, the first row {lengths.iloc[0]}")
    names = [name for name in ("y", "attribute", "image_id") if name in frame]
    return {"feature": np.stack(frame["feature"].to_list()), **{name: frame[name].to_numpy(object) for name in names}}


def _from_tables(tables: Mapping[str, _Table], digests: Mapping[str, str]) -> dict[str, Embeddings]:
    classes = _names([table.y for table in tables.values()])
    attributes = _names([table.attribute for table in tables.values()])
    # what stands for the network that made them: the files themselves
    origin = digest_of("".join(digests.values()).encode()).hexdigest()
    return {
        split: check_embeddings(
            Embeddings(
                features=torch.from_numpy(table.features),
                y=_codes(table.y, classes),
                attribute=_codes(table.attribute, attributes),
                image_id=table.image_id,
                class_names=tuple(classes),
                attribute_names=tuple(attributes),
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
    numbers = all(isinstance(label, (int, float, np.number)) for label in known)
    return [_text(label) for label in sorted(known, key=float if numbers else str)]


def _codes(column: np.ndarray, names: list[str]) -> torch.Tensor:
    place = {name: i for i, name in enumerate(names)}
    return torch.tensor([-1 if pd.isna(label) else place[_text(label)] for label in column.tolist()])


def _text(label: object) -> str:
    """1, 1.0 and numpy's 1 are one label."""
    return str(int(label)) if not isinstance(label, str) and float(label).is_integer() else str(label)

"""Import of feature matrices that a user already has."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256 as digest_of
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from hsfm.core.files import sha256
from hsfm.features.embeddings import METADATA, Embeddings, check_embeddings, check_same_origin, read_embeddings


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
        origin = digest_of("".join(digests.values()).encode()).hexdigest()  # in place of a network's, the files' own
        splits = _read_tables(paths, origin)
    first, *others = splits.values()
    for other in others:
        check_same_origin(first, other)
    return {split: replace(embeddings, dataset=dataset) for split, embeddings in splits.items()}


def _is_ours(path: str | Path) -> bool:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError):
        return False
    return all(key.encode() in metadata for key in METADATA)


def _read_tables(paths: Mapping[str, str | Path], origin: str) -> dict[str, Embeddings]:
    tables = {split: _read_table(path, split) for split, path in paths.items()}
    names = {}
    for column in ("y", "attribute"):
        known = {label for table in tables.values() for label in table[column] if label is not None}
        ordered = sorted(known, key=str if any(isinstance(label, str) for label in known) else float)
        names[column] = tuple(map(str, ordered))
        for table in tables.values():  # their places, -1 for a missing one
            table[column] = torch.from_numpy(pd.Index(ordered, dtype=object).get_indexer(table[column]))
    described = {"class_names": names["y"], "attribute_names": names["attribute"], "checkpoint_sha256": origin}
    described["details"] = {"backbone": "unknown", "transform": None}
    return {
        split: check_embeddings(Embeddings(split=split, **table, **described), paths[split])
        for split, table in tables.items()
    }


def _read_table(path: str | Path, split: str) -> dict[str, Any]:
    """Features `[n d]`, y, attribute and image_id of one split; labels are texts or numbers, None where missing."""
    if Path(path).suffix not in (".npz", ".parquet"):
        raise ValueError(f"{path}: is neither .parquet nor .npz")
    try:
        columns = _read_columns(path)
        features, n = columns["features"], columns["y"].size
        if features.ndim != 2 or features.dtype.kind not in "fiu" or len(features) != n:
            found = f"{features.dtype} {list(features.shape)}"
            raise ValueError(f"features are {found}, expected numbers [n d] for the {n} rows of y")
        columns = {"attribute": np.full(n, -1), "image_id": [f"{split}-{i:07d}" for i in range(n)], **columns}
        for name in ("y", "attribute", "image_id"):
            if np.shape(columns[name]) != (n,):
                raise ValueError(f"{name} {list(np.shape(columns[name]))} is not [{n}]")
        y, attribute = (
            [_label(value, row, name) for row, value in enumerate(columns[name].astype(object))]
            for name in ("y", "attribute")
        )
        if None in y:
            raise ValueError(f"row {y.index(None)} has no class")
    except Exception as error:  # of numpy, pandas and pyarrow on whatever the file holds
        raise ValueError(f"{path}: {error}") from error
    attribute = [None if label in ("", -1) else label for label in attribute]
    image_id, features = tuple(map(str, columns["image_id"])), torch.from_numpy(features.astype(np.float32))
    return {"features": features, "y": y, "attribute": attribute, "image_id": image_id}


def _read_columns(path: str | Path) -> dict[str, np.ndarray]:
    if Path(path).suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            key, columns = "x", dict(file)
    else:
        frame = pd.read_parquet(path)
        key, columns = "feature", {name: frame[name].to_numpy(object) for name in frame}
    for name in (key, "y"):
        if name not in columns:
            raise ValueError(f"no {name!r}; there are {', '.join(columns)}")
    features = columns.pop(key)
    return {**columns, "features": np.stack(features) if key == "feature" else features}


def _label(value: Any, row: int, name: str) -> str | int | float | None:
    """The text, the number (1.0 and numpy's 1 are 1), or None where it is missing. row, name: of the cell."""
    if isinstance(value, str):
        return value
    if np.ndim(value) == 0 and pd.isna(value):
        return None
    if not isinstance(value, Real) or not np.isfinite(value):
        raise ValueError(f"row {row} has {name} {value!r}, expected a text or a number")
    return int(value) if float(value).is_integer() else value

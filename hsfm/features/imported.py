"""Import of feature matrices that a user already has."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256 as digest_of
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hsfm.core.files import sha256
from hsfm.core.text import few
from hsfm.data import labels
from hsfm.data.cells import combine
from hsfm.features.embeddings import EXTRA, METADATA, Embeddings, check_embeddings, check_same_origin, read_embeddings

log = logging.getLogger(__name__)

OPTIONAL = ("attribute", "image_id", *EXTRA)  # beside features and y
SEVERAL = "attribute_"  # begins the name of each of several attributes
# other writings of a name, of which a file may hold one, and what others call an array that is not there
_WRITINGS = {
    "features": "x|features?",
    "y": "y",
    "attribute": "attributes?",
    "image_id": "image_ids?",
    "early_logits": "early_?logits?",
}
_OTHERS = {
    "features": "embeddings?|z",
    "y": "labels?|targets?|class(es)?",
    "attribute": "a|g|groups?|places?|backgrounds?|env(ironment)?s?|spurious|confounders?",
    "image_id": _WRITINGS["image_id"],
    "early_logits": _WRITINGS["early_logits"],
}


def import_embeddings(paths: Mapping[str, str | Path], dataset: str) -> dict[str, Embeddings]:
    """Embeddings by split.

    Parquet that hsfm wrote keeps its classes and their names; beside such a file, others have its labels by name or by
    number. Where all files are such, they are read as they are. Other Parquet has the columns `feature` (a list of
    numbers per row), `y`, and where there are any `attribute`, `image_id` and `early_logits` (a list per row); npz the
    arrays `x` [n d], `y` [n], `attribute` [n] and `early_logits` [n c]. There, y and attribute are names or numbers, of
    which 1, 1.0 and "1" are one; the classes are the sorted labels of all splits, in whose order early logits are, and
    an attribute that is missing (null, NaN, the text nan or none, or -1 beside others than 1) is unknown. Several
    attributes are columns or arrays `attribute_NAME`, or `attribute` [n k]; a row that lacks one is of no group. A
    warning names columns that are not read.

    Raises ValueError naming the file for anything that is missing, under another name or there twice, of the wrong
    shape or type, NaN, or at odds with another split; and where most classes or attributes are those of one row, or
    measurements.
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
    ours = {split: read_embeddings(path, split=split) for split, path in paths.items() if _is_ours(path)}
    for one in ours.values():
        check_same_origin(next(iter(ours.values())), one)
    if ours:
        return _read_beside(ours, paths, origin)
    return _number_labels({split: _read_table(path, split) for split, path in paths.items()}, paths, origin)


def import_arrays(
    splits: Mapping[str, Mapping[str, Any]], dataset: str, sources: Mapping[str, str] | None = None
) -> dict[str, Embeddings]:
    """Embeddings by split out of arrays in memory: `features` [n d], `y` [n], and those of OPTIONAL that there are.

    sources: by split, what errors call it. Labels are read, and errors raised, as by `import_embeddings`.
    """
    sources, tables, digest = sources or {split: split for split in splits}, {}, digest_of()
    for split, columns in splits.items():
        try:
            tables[split] = _as_table({name: np.asarray(values) for name, values in columns.items()}, split)
        except Exception as error:  # of numpy, pandas and pyarrow on whatever they are given
            raise ValueError(f"{sources[split]}: {error}") from error
        digest.update(tables[split]["features"].numpy().tobytes())
    found = _number_labels(tables, sources, digest.hexdigest())
    return {split: replace(embeddings, dataset=dataset) for split, embeddings in found.items()}


def _number_labels(
    tables: dict[str, dict[str, Any]], paths: Mapping[str, str | Path], origin: str
) -> dict[str, Embeddings]:
    """Embeddings out of `_as_table`'s tables, whose texts become numbers that all splits share."""
    ends = np.cumsum([len(table["y"]) for table in tables.values()])
    several = max((list(table["attribute"]) for table in tables.values()), key=len)
    for split, table in tables.items():
        if (own := list(table["attribute"])) not in (several, []):
            raise ValueError(f"{paths[split]}: has {few(own)}, but another split has {few(several)}")
    columns = {"y": [table["y"] for table in tables.values()]}
    for name in several:  # of a split without attributes they are unknown
        columns[name] = [table["attribute"].reindex(columns=several)[name] for table in tables.values()]
    numbered = {}
    for name, parts in columns.items():
        what = f"{name} of {', '.join(map(str, paths.values()))}"
        of_all = pd.concat(parts, ignore_index=True)
        numbered[name] = labels.number(of_all if name == "y" else labels.known(of_all, what), what)
    y, class_names = numbered.pop("y")
    if len(several) > 1:
        attribute, attribute_names, cells = combine({n.removeprefix(SEVERAL): of for n, of in numbered.items()})
    else:
        unknown = pd.Series(pd.NA, y.index, dtype="Int32"), ()
        (attribute, attribute_names), cells = next(iter(numbered.values()), unknown), {}
    for column, codes in (("y", y), ("attribute", attribute)):
        parts = np.split(codes.to_numpy(np.int64, na_value=-1), ends[:-1])
        for table, part in zip(tables.values(), parts, strict=True):
            table[column] = torch.from_numpy(part)
    described = {"class_names": class_names, "attribute_names": attribute_names, "checkpoint_sha256": origin}
    described["cells"] = cells
    described["details"] = {"backbone": "unknown", "transform": None}
    return {
        split: check_embeddings(Embeddings(split=split, **table, **described), paths[split])
        for split, table in tables.items()
    }


def _read_beside(ours: Mapping[str, Embeddings], paths: Mapping[str, str | Path], origin: str) -> dict[str, Embeddings]:
    """All splits, with the classes and attributes of those that hsfm wrote."""
    known = max(ours.values(), key=lambda one: len(one.attribute_names))  # a split may have no attribute
    splits = {}
    for split, path in paths.items():
        if split in ours:
            shared = {"attribute_names": known.attribute_names, "cells": known.cells, "checkpoint_sha256": origin}
            splits[split] = replace(ours[split], **shared)
            continue
        table = _read_table(path, split)
        if list(table["attribute"]) not in (["attribute"], []):
            raise ValueError(f"{path}: has several attributes, which goes beside no file that hsfm wrote")
        own = table["attribute"].reindex(columns=["attribute"])["attribute"]
        table["attribute"] = labels.known(own, f"attribute of {path}")
        for column, names in (("y", known.class_names), ("attribute", known.attribute_names)):
            table[column] = _numbers_among(names, table[column], f"{path}: {column}")
        splits[split] = check_embeddings(replace(known, split=split, checkpoint_sha256=origin, **table), path)
    return splits


def _numbers_among(names: Sequence[str], column: pd.Series, source: str) -> torch.Tensor:
    """Numbers of labels that are names, or these numbers already; -1 where a label is missing."""
    known = column.dropna()
    by_number = len(known) > 0 and not known.isin(names).any()
    allowed = (
        {str(number): number for number in range(len(names))} if by_number else {n: i for i, n in enumerate(names)}
    )
    wrong = known[~known.isin(list(allowed))]
    if len(wrong):
        of = (
            f"{few(names)}, or a number of one from 0"
            if names
            else "nothing: no file beside it that hsfm wrote has any"
        )
        raise ValueError(f"{source}: row {wrong.index[0]} has {wrong.iloc[0]!r}, expected {of}")
    return torch.tensor(column.map(allowed).fillna(-1).to_numpy(np.int64))


def _read_table(path: str | Path, split: str) -> dict[str, Any]:
    """Features `[n d]`, y, attribute, image_id and extra of one split; labels are texts, null where missing."""
    if Path(path).suffix.lower() not in (".npz", ".parquet"):
        raise ValueError(f"{path}: is neither .parquet nor .npz")
    try:
        return _as_table(_read_columns(path), split)
    except Exception as error:  # of numpy, pandas and pyarrow on whatever the file holds
        raise ValueError(f"{path}: {error}") from error


def _as_table(columns: dict[str, np.ndarray], split: str) -> dict[str, Any]:
    """Checked columns of one split, as `_read_table` returns them."""
    n, matrices = columns["y"].size, {"features": "d", **dict.fromkeys(EXTRA, "c")}
    matrices = {name: width for name, width in matrices.items() if name in columns}
    for name, width in matrices.items():
        values = columns[name]
        if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != n:
            found = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"{name} are {found}, expected numbers [n {width}] for the {n} rows of y")
    columns = {"image_id": [f"{split}-{i:07d}" for i in range(n)], **_attributes(columns)}
    several = [name for name in columns if name == "attribute" or name.startswith(SEVERAL)]
    for name in ("y", *several, "image_id"):
        if np.shape(columns[name]) != (n,):
            raise ValueError(f"{name} {list(np.shape(columns[name]))} is not [{n}]")
    y, *attributes = (
        labels.tidy(pa.array([_label(*cell, name) for cell in enumerate(columns[name].astype(object))], pa.string()))
        for name in ("y", *several)
    )
    y = y.to_pandas()
    attribute = pd.DataFrame(
        {name: of.to_pandas() for name, of in zip(several, attributes, strict=True)}, index=range(n)
    )
    if y.isna().any():
        raise ValueError(f"row {y.isna().argmax()} has no class")
    image_id = tuple(map(str, columns["image_id"]))
    # C's order, in which a file of ours is read: sums have it too, and their last digits
    extra = {name: torch.from_numpy(np.array(columns[name], np.float32, order="C")) for name in matrices}
    return {"features": extra.pop("features"), "y": y, "attribute": attribute, "image_id": image_id, "extra": extra}


def _attributes(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with attributes of one dimension each.

    A two-dimensional `attribute` [n k] becomes k, named by their numbers from 1.
    """
    there, given = dict(columns), columns.get("attribute")
    several = [name for name in there if name.startswith(SEVERAL)]
    if several and given is not None:
        raise ValueError(f"both 'attribute' and {several[0]!r}; leave one out")
    if given is None:
        return there
    if np.ndim(given) == 2 and np.shape(given)[1] > 1:
        del there["attribute"]
        return {**there, **{f"{SEVERAL}{j + 1}": column for j, column in enumerate(np.asarray(given).T)}}
    return {**there, "attribute": given[:, 0] if np.ndim(given) == 2 else given}


def _read_columns(path: str | Path) -> dict[str, np.ndarray]:
    if Path(path).suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            read = _names_to_read(file.files, "x", path)
            columns = {name: _read_array(file, name) for name in read}
    else:
        read = _names_to_read(pq.read_schema(path).names, "feature", path)
        frame = pq.read_table(path, columns=read).to_pandas()
        columns = {name: frame[name].to_numpy(object) for name in read}
        columns |= {name: np.stack(columns[name]) for name in ("feature", *EXTRA) if name in columns}
    return {"features": columns.pop(read[0]), **columns}


def _names_to_read(there: Sequence[str], features: str, path: str | Path) -> list[str]:
    """Names of arrays or columns that are read, that of the features first.

    Raises ValueError where one of them is not there, or under another name, or twice.
    """
    names = (features, "y", *OPTIONAL, *(name for name in there if name.startswith(SEVERAL)))
    others = [name for name in there if name not in names]
    for name in names:
        if name.startswith(SEVERAL):
            continue
        thing = "features" if name == features else name
        same, near = (
            [other for other in others if re.fullmatch(of[thing], other, re.IGNORECASE)] for of in (_WRITINGS, _OTHERS)
        )
        if name in there and same:
            raise ValueError(f"both {name!r} and {same[0]!r} may be the {thing}; one is read, leave the other out")
        if name not in there and (same or near or name not in OPTIONAL):
            advice = f"; rename {(same + near)[0]!r} if it is that" if same or near else ""
            advice += ", or leave it out" if name in OPTIONAL else ""
            raise ValueError(f"no {name!r}; there are {few(there, 50)}{advice}")
    if others:
        log.warning("%s: not read: %s; the names are %s", path, few(others), ", ".join(names))
    return [name for name in names if name in there]


def _read_array(file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:  # pickled objects
        raise ValueError(f"{name}: {error}; save texts as {name}.astype(str)") from error


def _label(row: int, value: Any, name: str) -> str | None:
    """A label as text, or None where it is missing. row, name: of the cell."""
    if isinstance(value, str):
        return value
    if np.ndim(value) == 0 and pd.isna(value):
        return None
    if not isinstance(value, Real) or not np.isfinite(value):
        raise ValueError(f"row {row} has {name} {value!r}, expected a text or a number")
    return str(int(value)) if float(value).is_integer() else str(value)

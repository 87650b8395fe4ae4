"""Scores: correct predictions of heads by seed and group, a tidy table and its file.

Knows no torch, so that tables and figures load quickly, and nothing that trains a network depends on it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int
from pyarrow.parquet import read_schema

from hsfm.core.files import read_parquet, write_parquet
from hsfm.data.cells import cell_name

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("run", pa.int64()),
        ("method", pa.string()),
        ("group_labels", pa.string()),
        ("chosen_by", pa.string()),
        ("seed", pa.int64()),
        ("remark", pa.string()),
        ("split", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("group", pa.int32()),
        ("group_name", pa.string()),
        ("n", pa.int64()),
        ("correct", pa.int64()),
        ("accuracy", pa.float64()),
    ]
)
# further columns where there are several attributes, or groups too small to count for the worst: the cell's value of
# each attribute as JSON, null of an unknown one; and the fewest rows of a group that counts
SEVERAL = pa.schema([("values", pa.string()), ("min_group", pa.int64())])
HELD_OUT = "held_out"  # in place of a split: images of validation, by heads that were not taught on them
BY_RULE = SCHEMA.append(pa.field("rule", pa.string()))  # of heads that each rule of the scorer has picked


def score(
    predictions: Int[np.ndarray, "s n"],
    y: Int[np.ndarray, " n"],
    attribute: Int[np.ndarray, " n"],
    *,
    seeds: Sequence[int],
    class_names: Sequence[str],
    attribute_names: Sequence[str],
    cells: Mapping[str, Sequence[str]] | None = None,
    min_group: int = 1,
) -> pd.DataFrame:
    """One row per seed and group: seed, y, attribute, group, group_name, n, correct, accuracy (a fraction).

    attribute: -1 where unknown. A group without images has n = 0 and a null accuracy. Images of unknown attribute, if
    there are any, are counted by class alone, in rows with a null attribute and group. cells, min_group: of
    `Embeddings`; where they say something, the columns of SEVERAL are there, too.
    """
    # one part more per class than there are attributes: the unknown ones
    n_attributes = len(attribute_names)
    part = y * (n_attributes + 1) + np.where(attribute < 0, n_attributes, attribute)
    n_parts = len(class_names) * (n_attributes + 1)
    label, a = np.divmod(np.arange(n_parts), n_attributes + 1)
    parts = pd.DataFrame(
        {
            "y": label,
            "attribute": pd.array(a, "Int32"),
            "group": pd.array(label * n_attributes + a, "Int32"),
            "group_name": [f"{name}, {other}" for name in class_names for other in (*attribute_names, "unknown")],
            "n": np.bincount(part, minlength=n_parts),
        }
    )
    parts.loc[a == n_attributes, ["attribute", "group"]] = pd.NA
    if cells or min_group > 1:
        texts = [json.dumps({name: values[i] for name, values in (cells or {}).items()}) for i in range(n_attributes)]
        parts = parts.assign(values=pd.array([*texts, None], "str")[a], min_group=min_group)
    hits = [np.bincount(part[predicted == y], minlength=n_parts) for predicted in predictions]
    none = parts[:0].assign(correct=0)  # for a method without a head
    frame = pd.concat([none, *(parts.assign(correct=correct) for correct in hits)], ignore_index=True)
    frame.insert(0, "seed", np.repeat(seeds, n_parts))
    frame = frame[frame["attribute"].notna() | (frame["n"] > 0)].reset_index(drop=True)
    return frame.assign(accuracy=frame["correct"] / frame["n"])


def score_splits(head: Any, splits: Sequence[Any], *, seeds: Sequence[int]) -> pd.DataFrame:
    """`score` of some heads on several splits, with columns split and dataset.

    head: with `predict`, from features `[n d]` to classes `[s n]`; splits: embeddings.
    """
    frames = [_of_split(head.predict(part.features).numpy(), part, seeds) for part in splits]
    return pd.concat(frames, ignore_index=True)


def _of_split(predictions: Int[np.ndarray, "s n"], part: Any, seeds: Sequence[int]) -> pd.DataFrame:
    described = {name: getattr(part, name) for name in ("class_names", "attribute_names", "cells", "min_group")}
    frame = score(predictions, part.y.numpy(), part.attribute.numpy(), seeds=seeds, **described)
    return frame.assign(split=part.split, dataset=part.dataset)


def _held_out(classes: Any, val: Any, seed: int) -> pd.DataFrame:
    """Scores of predictions `[k n]` for the rows of val, -1 for none, all together under one seed."""
    rows = (classes >= 0).nonzero()[:, 1]
    return _of_split(classes[classes >= 0].numpy()[None], val.take(rows), [seed]).assign(split=HELD_OUT)


def value_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of every class with one value of one attribute, of datasets with several attributes; none of others.

    Columns dataset, run, method, seed and split as far as they are there, y, group_name, n, correct and accuracy.
    """
    several = scores[scores["values"].notna() & (scores["values"] != "{}")] if "values" in scores else scores[:0]
    keys = [name for name in ("dataset", "run", "method", "seed", "split") if name in scores]
    parts, cells = [], {text: json.loads(text) for text in (several["values"].unique() if len(several) else ())}
    for names in {tuple(values) for values in cells.values()}:
        own = several[several["values"].map(lambda text, names=names: tuple(cells[text]) == names)]
        for name in names:
            ends = own["values"].map({text: f", {cell_name(values)}" for text, values in cells.items()})
            classes = [group.removesuffix(end) for group, end in zip(own["group_name"], ends, strict=True)]
            values = own["values"].map(lambda text, name=name: cells[text].get(name))
            parts.append(own.assign(group_name=[f"{y}, {name} {v}" for y, v in zip(classes, values, strict=True)]))
    if not parts:
        return several[[*keys, "y", "group_name", "n", "correct", "accuracy"]]
    found = pd.concat(parts).groupby([*keys, "y", "group_name"], sort=False)[["n", "correct"]].sum().reset_index()
    return found.assign(accuracy=found["correct"] / found["n"])


def score_heads(saved: Any, splits: Sequence[Any], run: int) -> pd.DataFrame:
    """The columns of SCHEMA for the heads of a file. saved: `hsfm.heads.SavedHeads`; splits: embeddings.

    Where it has predictions of held-out rows of validation, these are scored as a split of its own, HELD_OUT.
    """
    remarks = dict(zip(saved.seeds, saved.remarks or [""] * len(saved.seeds), strict=True))
    frame = score_splits(saved.head, splits, seeds=saved.seeds)
    if saved.held_out is not None:
        val = next(part for part in splits if part.split == "val")
        frame = pd.concat([frame, _held_out(saved.held_out, val, saved.seeds[0])], ignore_index=True)
    return frame.assign(
        run=run,
        method=saved.method,
        group_labels=saved.group_labels,
        chosen_by=saved.chosen_by,
        remark=frame["seed"].map(remarks),
    )


def write_scores(
    path: str | Path, scores: pd.DataFrame, metadata: Mapping[str, Any], schema: pa.Schema = SCHEMA
) -> None:
    """Write the columns of SCHEMA, or of BY_RULE, and those of SEVERAL where they are there."""
    schema = pa.schema([*schema, *SEVERAL]) if "values" in scores else schema
    write_parquet(path, pa.Table.from_pandas(scores[schema.names], schema, preserve_index=False), metadata)


def read_scores(path: str | Path, schema: pa.Schema = SCHEMA) -> pd.DataFrame:
    """Read scores; every error names the file."""
    table, _ = read_parquet(path, schema)
    if "values" in read_schema(path).names:
        table, _ = read_parquet(path, pa.schema([*schema, *SEVERAL]))
    return table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)


def read_all_scores(paths: Iterable[str | Path], schema: pa.Schema = SCHEMA) -> pd.DataFrame:
    """Several files of scores one after the other, with the column `file`, where a row comes from."""
    return pd.concat([read_scores(path, schema).assign(file=str(path)) for path in paths], ignore_index=True)


def read_left_out(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Columns dataset, method and reason of the files whose method was left out."""
    found = [read_parquet(path, SCHEMA)[1].get("left_out") for path in paths]
    return pd.DataFrame(filter(None, found), columns=["dataset", "method", "reason"]).drop_duplicates()

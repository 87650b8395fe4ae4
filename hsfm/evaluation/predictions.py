"""Per-image test predictions of a method's heads, and their Parquet file.

Knows no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Int

from hsfm.core.files import read_parquet, require, write_parquet

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("group", pa.int32()),
        ("predicted", pa.list_(pa.int16(), -1)),  # a class per seed
    ]
)
_TEXTS = ("dataset", "method", "checkpoint_sha256")


@dataclass(frozen=True)
class Predictions:
    """Classes that the heads of one method on one backbone give the test images."""

    dataset: str
    run: int
    method: str
    seeds: tuple[int, ...]
    classes: int
    image_id: tuple[str, ...]
    y: Int[np.ndarray, " n"]
    attribute: Int[np.ndarray, " n"]  # -1 where unknown
    group: Int[np.ndarray, " n"]  # -1 where unknown
    predicted: Int[np.ndarray, "n s"]
    checkpoint_sha256: str  # of the features; several where each seed has its own

    @property
    def correct(self) -> Bool[np.ndarray, "n s"]:
        return self.predicted == self.y[:, None]


def predict(saved: Any, test: Any, run: int) -> Predictions:
    """Predictions of the heads of a file on the test images. saved: `hsfm.heads.SavedHeads`; test: embeddings."""
    return Predictions(
        dataset=test.dataset,
        run=run,
        method=saved.method,
        seeds=saved.seeds,
        classes=test.n_classes,
        image_id=test.image_id,
        y=test.y.numpy(),
        attribute=test.attribute.numpy(),
        group=test.group.numpy(),
        predicted=saved.head.predict(test.features).numpy().T,
        checkpoint_sha256=saved.checkpoint_sha256,
    )


def gather(parts: Sequence[Predictions], source: str | Path) -> Predictions:
    """The seeds of several as one. Raises ValueError naming `source` where they are not of the same images."""
    first = parts[0]
    for part in parts[1:]:
        check_same_images(first, part, source)
    return Predictions(
        **{
            **vars(first),
            "seeds": tuple(seed for part in parts for seed in part.seeds),
            "predicted": np.concatenate([part.predicted for part in parts], axis=1),
            "checkpoint_sha256": ", ".join(part.checkpoint_sha256 for part in parts),
        }
    )


def check_same_images(one: Predictions, other: Predictions, source: str | Path) -> None:
    """Raise ValueError naming `source` unless two are of the same images in the same order, with the same labels."""
    if one.image_id != other.image_id:
        at = next(
            (n for n, pair in enumerate(zip(one.image_id, other.image_id, strict=False)) if pair[0] != pair[1]),
            min(len(one.image_id), len(other.image_id)),
        )
        raise ValueError(
            f"{source}: test images of {other.method}, run {other.run}, are not those of {one.method}, run {one.run}, "
            f"from row {at} on; {len(other.image_id)} and {len(one.image_id)} of them"
        )
    for name in ("y", "attribute", "group"):
        differ = getattr(one, name) != getattr(other, name)
        if differ.any():
            raise ValueError(f"{source}: {name} of {one.image_id[differ.argmax()]} differs from {one.method}'s table")


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write checked predictions."""
    check_predictions(predictions, path)
    columns = [
        pa.array(predictions.image_id, pa.string()),
        pa.array(predictions.y, pa.int32()),
        *(pa.array(values, pa.int32(), mask=values < 0) for values in (predictions.attribute, predictions.group)),
        pa.FixedSizeListArray.from_arrays(
            pa.array(predictions.predicted.astype(np.int16).ravel()), len(predictions.seeds)
        ),
    ]
    metadata = {
        **{key: getattr(predictions, key) for key in (*_TEXTS, "run", "classes")},
        "split": "test",
        "seeds": list(predictions.seeds),
    }
    write_parquet(path, pa.table(columns, names=SCHEMA.names), metadata, compression="zstd")


def read_predictions(path: str | Path) -> Predictions:
    """Read and check what `write_predictions` wrote; every error names the file."""
    table, metadata = read_parquet(path, SCHEMA)
    require(metadata, (*_TEXTS, "run", "classes", "seeds"), path)
    for name in ("image_id", "y", "predicted"):
        if table[name].null_count:
            raise ValueError(f"{path}: column {name!r} has an empty cell")
    numbers = {name: table[name].fill_null(-1).to_numpy().astype(np.int64) for name in ("y", "attribute", "group")}
    predicted = table["predicted"].combine_chunks().flatten().to_numpy().astype(np.int64)
    return check_predictions(
        Predictions(
            **{key: metadata[key] for key in (*_TEXTS, "run", "classes")},
            seeds=tuple(metadata["seeds"]),
            image_id=tuple(table["image_id"].to_pylist()),
            **numbers,
            predicted=predicted.reshape(len(table), -1),
        ),
        path,
    )


def check_predictions(predictions: Predictions, source: str | Path) -> Predictions:
    """Return sound predictions; raise ValueError naming `source` otherwise."""
    shape = (len(predictions.image_id), len(predictions.seeds))
    if predictions.predicted.shape != shape:
        raise ValueError(
            f"{source}: {shape[0]} images and {shape[1]} seeds, but predictions {predictions.predicted.shape}"
        )
    if shape[0] == 0:
        raise ValueError(f"{source}: no test image")
    for name, values in (("y", predictions.y[:, None]), ("predicted", predictions.predicted)):
        wrong = ((values < 0) | (values >= predictions.classes)).any(1)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{source}: {name} of {predictions.image_id[row]} is {values[row].tolist()}, but there are "
                f"{predictions.classes} classes"
            )
    return predictions


def check_counts(predictions: Predictions, scores: pd.DataFrame, source: str | Path) -> None:
    """Raise ValueError naming `source` unless as many are right, by seed and group, as the method's scores say."""
    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    counts = {
        (row.seed, row.y, -1 if pd.isna(row.attribute) else row.attribute): (row.n, row.correct)
        for row in test.itertuples()
    }
    parts = pd.DataFrame({"y": predictions.y, "attribute": predictions.attribute})
    found = {}
    for column, seed in enumerate(predictions.seeds):
        hits = predictions.correct[:, column]
        for key, rows in parts.groupby(["y", "attribute"]).indices.items():
            found[(seed, *key)] = (len(rows), int(hits[rows].sum()))
    if found != counts:
        key = next(key for key in {**counts, **found} if counts.get(key) != found.get(key))
        raise ValueError(
            f"{source}: seed {key[0]}, class {key[1]}, attribute {key[2]}: images and hits are {found.get(key)}, but "
            f"{counts.get(key)} in the scores; delete both files and run again"
        )

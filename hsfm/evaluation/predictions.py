"""Per-image test predictions of a method's heads, and their Parquet file. Knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
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
_DESCRIBED = ("dataset", "method", "checkpoint_sha256", "run", "seeds")


@dataclass(frozen=True)
class Predictions:
    """Classes that the heads of one method on one backbone give the test images."""

    dataset: str
    run: int
    method: str
    seeds: tuple[int, ...]
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
        image_id=test.image_id,
        y=test.y.numpy(),
        attribute=test.attribute.numpy(),
        group=test.group.numpy(),
        predicted=saved.head.predict(test.features).numpy().T,
        checkpoint_sha256=saved.checkpoint_sha256,
    )


def gather(parts: Sequence[Predictions]) -> Predictions:
    """The seeds of several, of the same images, as one."""
    return replace(
        parts[0],
        seeds=tuple(seed for part in parts for seed in part.seeds),
        predicted=np.concatenate([part.predicted for part in parts], axis=1),
        checkpoint_sha256=", ".join(part.checkpoint_sha256 for part in parts),
    )


def check_same_images(one: Predictions, other: Predictions, source: str | Path) -> None:
    """Raise ValueError naming `source` unless two are of the same images in the same order, with the same labels."""
    for name in ("image_id", "y", "attribute", "group"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise ValueError(f"{source}: images or labels are not those of {one.method}, run {one.run}")


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write predictions; unknown attributes and groups become null."""
    classes, n_seeds = pa.array(predictions.predicted.astype(np.int16).ravel()), len(predictions.seeds)
    # of a row that is left out there are none, and lists of a fixed size have one item at least
    nothing = pa.array([[]] * len(predictions.y), pa.list_(pa.int16()))
    columns = [
        pa.array(predictions.image_id, pa.string()),
        pa.array(predictions.y, pa.int32()),
        *(pa.array(values, pa.int32(), mask=values < 0) for values in (predictions.attribute, predictions.group)),
        pa.FixedSizeListArray.from_arrays(classes, n_seeds) if n_seeds else nothing,
    ]
    metadata = {key: getattr(predictions, key) for key in _DESCRIBED}
    write_parquet(path, pa.table(columns, SCHEMA.names), {**metadata, "split": "test"}, compression="zstd")


def read_predictions(path: str | Path) -> Predictions:
    """Read what `write_predictions` wrote; every error names the file."""
    table, metadata = read_parquet(path, SCHEMA)
    require(metadata, _DESCRIBED, path)
    predicted = table["predicted"].combine_chunks().flatten().to_numpy().astype(np.int64)
    return Predictions(
        **{key: metadata[key] for key in _DESCRIBED} | {"seeds": tuple(metadata["seeds"])},
        image_id=tuple(table["image_id"].to_pylist()),
        **{name: table[name].fill_null(-1).to_numpy().astype(np.int64) for name in ("y", "attribute", "group")},
        predicted=predicted.reshape(len(table), -1),
    )

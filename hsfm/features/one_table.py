"""Import of one file that holds the rows of all splits, with a column that says which is of which."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hsfm.core.text import few
from hsfm.data import labels
from hsfm.data.table import SPLITS
from hsfm.features.embeddings import EXTRA, Embeddings
from hsfm.features.imported import SEVERAL, import_arrays

log = logging.getLogger(__name__)

LABELS = ("y", "split", "attribute", "image_id")  # the first two have to be there


def import_table(path: str | Path, dataset: str, columns: Mapping[str, str] | None = None) -> dict[str, Embeddings]:
    """Embeddings by split out of one .csv, .parquet or .npz file.

    It has `y`, `split` (0, 1, 2 or train, val, test) and where there are any `attribute` and `image_id`, as
    `import_embeddings` reads them. Features are the array `x` [n d] of npz; the column `feature` of Parquet, a list of
    numbers per row; else all other columns of a table, each of numbers. columns: by those names the file's own; for
    several attributes "NAME,NAME".

    Raises ValueError naming the file and the column for one that is missing, a feature that is no number, an unknown
    split, and as `import_arrays`.
    """
    path, given = Path(path), dict(columns or {})
    if unknown := given.keys() - set(LABELS):
        raise ValueError(f"columns: unknown {min(unknown)!r}; allowed are {', '.join(LABELS)}")
    several = given.pop("attribute", "").split(",")
    given |= {"attribute" if len(several) == 1 else f"{SEVERAL}{name}": name for name in several if name}
    called = dict(zip(LABELS, LABELS, strict=True)) | given
    if len(several) > 1:
        del called["attribute"]
    kind = path.suffix.lower()
    if kind not in (".npz", ".parquet", ".csv"):
        raise ValueError(f"{path}: is neither .npz, .parquet nor .csv")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    there = _names_in(path, kind)
    used = {key: name for key, name in called.items() if name in there or key in LABELS[:2] or key in given}
    labels.require_columns(path, there, used.values())
    found = _arrays(path, used) if kind == ".npz" else labels.read_text(path, used).to_dict("series")
    what = f"{path}: column {used['split']!r}"
    split = labels.tidy(pa.array([str(value) for value in found.pop("split")], pa.string())).to_pandas()
    split = labels.look_up(split, labels.SPLIT_NAMES, what)
    missing = [name for name in SPLITS if not (split == name).any()]
    if missing:
        raise ValueError(f"{what} has no row of {' and '.join(missing)}")
    if kind != ".npz":
        found["features"] = _features(path, used, there)
    rows = {name: (split == name).to_numpy() for name in SPLITS}
    parts = {name: {key: np.asarray(of)[rows[name]] for key, of in found.items()} for name in SPLITS}
    return import_arrays(parts, dataset, {name: f"{path}, {name}" for name in SPLITS})


def _names_in(path: Path, kind: str) -> list[str]:
    if kind == ".npz":
        with np.load(path) as file:
            return list(file.files)
    names = pq.read_schema(path).names if kind == ".parquet" else list(pd.read_csv(path, nrows=0).columns)
    return [name.strip() for name in names]


def _arrays(path: Path, used: Mapping[str, str]) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        labels.require_columns(path, file.files, ["x"])
        others = (name for name in file.files if name in EXTRA or name.startswith(SEVERAL))
        names = {"features": "x", **used, **{name: name for name in others}}
        return {key: file[name] for key, name in names.items()}


def _features(path: Path, used: Mapping[str, str], there: Sequence[str]) -> np.ndarray:
    """Features `[n d]`: lists in the column `feature`, or all columns that are not used otherwise."""
    others = [name for name in there if name not in used.values()]
    if path.suffix.lower() == ".parquet":
        others = ["feature"] if "feature" in others else others
        frame = pq.read_table(path, columns=others).to_pandas()
        if others == ["feature"]:
            return np.stack(frame["feature"])
    else:
        frame = pd.read_csv(path, skipinitialspace=True).rename(columns=str.strip)[others]
    nameless = [name for name in others if not name or name.startswith("Unnamed:")]
    if nameless:
        log.warning("%s: a column without a name is left out: an index, it seems", path)
    frame = frame.drop(columns=nameless)
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    if texts or frame.empty:
        problem = f"column {texts[0]!r} holds {frame[texts[0]].iloc[0]!r}" if texts else "has no column of features"
        raise ValueError(
            f"{path}: {problem}; every column but {', '.join(used.values())} is a feature, a number: turn it into "
            "numbers, or leave it out of the file"
        )
    log.info("%s: %d features: %s", path, len(frame.columns), few(list(frame)))
    return frame.to_numpy(np.float64)

"""Read tables of labels as text, and check every cell before conversion to numbers.

Rows are counted from 1 below the header, in the order of the table.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

BINARY = {"0": 0, "1": 1}
SPLIT_CODES = {"0": "train", "1": "val", "2": "test"}

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)(\.0*)?")


def read_text(path: str | Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Some columns of a .csv or .parquet table as text without blanks around it, null where a cell is empty.

    columns: by the name that the result uses, the name in the table. Only these are read. An empty cell is the only
    null: NA or None are labels like any other. Raises ValueError where the file is missing, not whole, of another kind,
    or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such table")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: a table of labels is a .csv or a .parquet file")
    wanted = list(dict.fromkeys(columns.values()))
    try:
        # pyarrow, because it refuses rows of the wrong length, where pandas shifts or drops cells
        table = (_read_csv if path.suffix == ".csv" else _read_parquet)(path, wanted)
        return pa.table({key: _text(table[name]) for key, name in columns.items()}).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({error})") from error


def _read_csv(path: Path, wanted: list[str]) -> pa.Table:
    # columns that nobody asked for, captions say, may hold quoted line breaks
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, parse_options=parse) as file:
        _require_columns(path, file.schema.names, wanted)
    convert = csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
    return csv.read_csv(path, parse_options=parse, convert_options=convert)


def _read_parquet(path: Path, wanted: list[str]) -> pa.Table:
    _require_columns(path, parquet.read_schema(path).names, wanted)
    return parquet.read_table(path, columns=wanted)


def _require_columns(path: Path, found: list[str], wanted: list[str]) -> None:
    for name in wanted:
        if found.count(name) != 1:
            problem = "no column" if name not in found else "more than one column"
            raise ValueError(f"{path}: {problem} {name!r}; the columns are {', '.join(found)}")


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):  # what pandas makes of integers beside empty cells
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if pc.all(pc.equal(pc.floor(column), column)).as_py() is not False:
            column = column.cast(pa.int64())
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def plain(label: str) -> str:
    """A label as it is, except that 1.0 is written 1."""
    return label.split(".")[0] if is_integer(label) else label


def is_integer(label: str) -> bool:
    """Whether a label is an integer, perhaps as pandas writes it beside empty cells (1.0); 007 is a name."""
    return _INTEGER.fullmatch(label) is not None


def look_up(text: pd.Series, meaning: Mapping[str, Any], what: str, key: Callable[[str], str] = plain) -> np.ndarray:
    """The meaning of each cell, `meaning[key(cell)]` [n].

    Raises ValueError naming `what` and the row of the first cell that is empty or stands for nothing.
    """
    require_filled(text, what)
    code, found = pd.factorize(text)
    for label in found:
        if key(label) not in meaning:
            row = int(np.argmax(text == label)) + 1
            raise ValueError(f"{what} holds {label!r} in row {row}; allowed are {', '.join(meaning)}")
    return np.array([meaning[key(label)] for label in found])[code]


def require_filled(text: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the row of the first empty cell."""
    empty = text.isna().to_numpy()
    if empty.any():
        raise ValueError(f"{what} is empty in row {int(empty.argmax()) + 1}")


def require_unique(text: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the first two rows that hold the same."""
    repeated = text.duplicated().to_numpy()
    if repeated.any():
        value = text.iloc[int(repeated.argmax())]
        first, second = np.flatnonzero(text == value)[:2] + 1
        raise ValueError(f"{what} holds {value!r} twice, in rows {first} and {second}; once is allowed")


def require_files(folder: str | Path, paths: Iterable[str], listed_in: str | Path, advice: str) -> None:
    """Raise ValueError with the number of `paths` that are no files in `folder`, and the first three of them.

    Every folder is listed once and no file is touched: a look at each file takes minutes on a network disk.
    """
    there: dict[str, set[str]] = {}
    missing, total = [], 0
    for total, path in enumerate(paths, 1):  # noqa: B007 (the last count is the number of paths)
        parent, _, name = path.rpartition("/")
        if parent not in there:
            there[parent] = names_in(Path(folder, parent))
        if name not in there[parent]:
            missing.append(path)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{listed_in}: {len(missing):,} of the {total:,} images in it are not in {folder}: {shown}. {advice}"
        )


def names_in(folder: str | Path) -> set[str]:
    """Names of what lies in a folder and is no folder itself; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()

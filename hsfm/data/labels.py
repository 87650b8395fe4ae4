"""Tables of labels as text, each cell checked before conversion to numbers.

Rows are counted from 1 below the header, in the order of the table.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

BINARY = {"0": 0, "1": 1}
SPLIT_NAMES = {
    **{"0": "train", "1": "val", "2": "test"},
    **{"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"},
}

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)(\.0*)?")
_PARSE = csv.ParseOptions(newlines_in_values=True)  # columns that nobody asked for, captions say, may hold line breaks


def read_text(path: str | Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Some columns of a .csv or .parquet table as text without blanks around it, null where a cell is empty.

    columns: by the name that the result uses, the name in the table. An empty cell is the only null: NA or None are
    labels like any other. Raises ValueError where the file is missing, not whole, of another kind, or lacks a column.
    """
    path, wanted = Path(path), list(dict.fromkeys(columns.values()))
    if not path.is_file():
        raise ValueError(f"{path}: no such table")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: a table of labels is a .csv or a .parquet file")
    try:
        # pyarrow, because it refuses rows of the wrong length, where pandas shifts or drops cells
        if path.suffix == ".csv":
            with csv.open_csv(path, parse_options=_PARSE) as file:
                require_columns(path, file.schema.names, wanted)
            convert = csv.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()))
            table = csv.read_csv(path, parse_options=_PARSE, convert_options=convert)
        else:
            require_columns(path, parquet.read_schema(path).names, wanted)
            table = parquet.read_table(path, columns=wanted)
        return pa.table({key: _text(table[name]) for key, name in columns.items()}).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({error})") from error


def require_columns(path: str | Path, there: Sequence[str], wanted: Iterable[str]) -> None:
    """Raise ValueError naming the table and the first wanted column that it lacks or has more than once."""
    for name in wanted:
        if there.count(name) != 1:
            problem = "more than one" if name in there else "no"
            raise ValueError(f"{path}: {problem} column {name!r}; the columns are {', '.join(there)}")


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def is_integer(label: str) -> bool:
    """Whether a label is an integer, perhaps as pandas writes it beside empty cells (1.0); 007 is a name."""
    return _INTEGER.fullmatch(label) is not None


def plain(label: str) -> str:
    """A label as it is, except that 1.0 is written 1."""
    return label.split(".")[0] if is_integer(label) else label


def look_up(text: pd.Series, meaning: Mapping[str, Any], what: str) -> pd.Series:
    """The meaning of each cell, in any case.

    Raises ValueError naming `what` and the row of the first cell that is empty or stands for nothing.
    """
    require_filled(text, what)
    found = text.map(plain).str.lower()
    refuse(~found.isin(meaning), text, what, ", ".join(meaning))
    return found.map(meaning)


def decode(
    text: pd.DataFrame, source: str | Path, columns: Mapping[str, str], codes: Mapping[str, int]
) -> pd.DataFrame:
    """Numbers for the texts in y and attribute, by `codes`, and names of the splits.

    columns: what the table `source` calls those of `text`. Raises ValueError naming table, column, row and value.
    """
    require_filled(text["path"], f"{source}: column {columns['path']!r}")
    for key, meaning in {"y": codes, "attribute": codes, "split": SPLIT_NAMES}.items():
        if key in text:
            text[key] = look_up(text[key], meaning, f"{source}: column {columns[key]!r}")
    return text


def refuse(wrong: pd.Series, text: pd.Series, what: str, allowed: str) -> None:
    """Raise ValueError naming `what`, the first cell that is wrong, its row, and what is allowed."""
    if wrong.any():
        row = int(wrong.to_numpy(bool).argmax())
        raise ValueError(f"{what} holds {text.iloc[row]!r} in row {row + 1}; allowed are {allowed}")


def require_filled(text: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the row of the first empty cell."""
    if text.isna().any():
        raise ValueError(f"{what} is empty in row {int(text.isna().to_numpy().argmax()) + 1}")


def require_unique(text: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the first two rows that hold the same."""
    repeated = text[text.duplicated(keep=False)]
    if len(repeated):
        rows = np.flatnonzero(text == repeated.iloc[0])[:2] + 1
        raise ValueError(f"{what} holds {repeated.iloc[0]!r} twice, in rows {rows[0]} and {rows[1]}; once is allowed")


def require_files(folder: str | Path, paths: pd.Series, listed_in: str | Path, advice: str) -> None:
    """Raise ValueError with the number of `paths` that are no files in `folder`, and the first three of them.

    Every folder is listed once and no file is touched: a look at each file takes minutes on a network disk.
    """
    parts = [os.path.split(path) for path in paths]
    there = {parent: names_in(Path(folder, parent)) for parent in {parent for parent, _ in parts}}
    missing = [os.path.join(parent, name) for parent, name in parts if name not in there[parent]]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{listed_in}: {len(missing):,} of the {len(parts):,} images in it are not in {folder}: {shown}. {advice}"
        )


def names_in(folder: str | Path) -> set[str]:
    """Names of the files in a folder; none where there is no such folder."""
    return {name for _, _, names in islice(os.walk(folder), 1) for name in names}

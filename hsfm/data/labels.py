"""Tables of labels as text, each cell checked before conversion to numbers.

Rows are counted from 1 below the header, in the order of the table.
"""

import csv
import io
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from hsfm.core.text import few

log = logging.getLogger(__name__)

BINARY = {"0": 0, "1": 1}
SPLIT_NAMES = {
    **{"0": "train", "1": "val", "2": "test"},
    **{"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"},
}

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)(\.0*)?")
_MISSING = ["", "nan", "<na>"]  # what numpy and pandas write for a missing label, in any case
_NOT_MISSING = {"na", "n/a", "none", "null"}  # labels like any other, which may have been meant so
_FEW = 10  # so many values may be those of one image each, or fractions


def read_text(path: str | Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Some columns of a .csv or .parquet table as text in NFC without blanks around it, null where a cell is empty.

    columns: by the name that the result uses, the name in the table. A cell that holds nan is empty, too; NA or None
    are labels like any other. Raises ValueError where the file is missing, not whole, of another kind, or lacks a
    column.
    """
    path, wanted = Path(path), list(dict.fromkeys(columns.values()))
    if not path.is_file():
        raise ValueError(f"{path}: no such table")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a table of labels is a .csv or a .parquet file")
    try:
        table = readers[path.suffix.lower()](path, wanted)
        return pa.table({key: tidy(table[name]) for key, name in columns.items()}).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({error})") from error


def _read_parquet(path: Path, wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    names = parquet.read_schema(path).names
    header = [name.strip() for name in names]
    require_columns(path, header, wanted)
    called = {name: names[header.index(name)] for name in wanted}
    table = parquet.read_table(path, columns=list(called.values()))
    return {name: table[called[name]] for name in wanted}


def _read_csv(path: Path, wanted: Sequence[str]) -> dict[str, pa.Array]:
    """Columns of a table whose cells lie between commas, by Python's csv, which knows the line of an open quote."""
    rows = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True, skipinitialspace=True)
    cells, joined, line = [], [], 0
    try:
        header = [name.strip() for name in next(rows, [])]
        if set(wanted) - set(header) and (len(header) < 2 or header[0].startswith(("#", "sep="))):
            first = ",".join(header)[:80]
            raise ValueError(f"{path}: its first line is {first!r}, expected names of columns between commas")
        require_columns(path, header, wanted)
        places, line = [header.index(name) for name in wanted], rows.line_num
        for row in filter(None, rows):  # without empty lines
            if len(row) != len(header):
                message = f"row {len(cells) + 1}, up to line {rows.line_num}, has {len(row)} cells, not {len(header)}"
                raise ValueError(f"{path}: {message}")
            cells.append([row[place] for place in places])
            if rows.line_num > line + 1 and any(_holds_rows(cell, len(header)) for cell in row):
                joined.append(len(cells))
            line = rows.line_num
    except csv.Error as error:
        problem = f"row {len(cells) + 1}, from line {line + 1}: a quote is not closed before the next comma ({error})"
        raise ValueError(f"{path}: {problem}") from error
    if joined:
        text = "%s: quotes around line breaks seem to hold whole rows, which are lost: in row %s"
        log.warning(text, path, few(joined))
    return {name: pa.array([row[i] for row in cells], pa.string()) for i, name in enumerate(wanted)}


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise ValueError(f"{path}: is UTF-16 or no text, expected UTF-8 (spreadsheets save it as CSV UTF-8)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, what = raw.count(b"\n", 0, error.start) + 1, raw[error.start : error.end]
        raise ValueError(f"{path}: line {line} holds {what}, which is not UTF-8; save the table as UTF-8") from error


def _holds_rows(cell: str, n_columns: int) -> bool:
    """Whether a cell with line breaks has the commas of rows; its first and last line are parts of one."""
    first, *others = cell.split("\n")
    return bool(others) and n_columns - 1 in (line.count(",") for line in (first + others[-1], *others[:-1]))


def require_columns(path: str | Path, there: Sequence[str], wanted: Iterable[str]) -> None:
    """Raise ValueError naming the table and the first wanted column that it lacks or has more than once."""
    for name in wanted:
        if there.count(name) != 1:
            problem = "more than one" if name in there else "no"
            raise ValueError(f"{path}: {problem} column {name!r}; the columns are {few(there, 50)}")


def tidy(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text in NFC, without blanks around it, null where it is empty or says nan."""
    text = pc.utf8_normalize(pc.utf8_trim_whitespace(column.cast(pa.string())), "NFC")
    return pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(_MISSING)), pa.scalar(None, pa.string()), text)


def is_integer(label: str) -> bool:
    """Whether a label is an integer, perhaps as pandas writes it beside empty cells (1.0); 007 is a name."""
    return _INTEGER.fullmatch(label) is not None


def plain(label: str) -> str:
    """A label as it is, except that 1.0 is written 1."""
    return label.split(".")[0] if is_integer(label) else label


def number(text: pd.Series, what: str) -> tuple[pd.Series, tuple[str, ...]]:
    """Labels as their positions among the sorted labels, null where there is none; and the labels.

    They are sorted as numbers if all are numbers, else alphabetically. what: names the column in a warning of labels
    that look alike, and in the ValueError where many values are those of one image, or measurements.
    """
    text = text.map(plain, na_action="ignore")
    counts = text.value_counts()
    once = counts.index[counts == 1]
    names = sorted(counts.index)
    numeric = not pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").isna().any()
    if numeric:
        names.sort(key=float)
    single, measured = 2 * len(once) > len(names), numeric and any(float(name) % 1 for name in names)
    if len(names) > _FEW and (single or measured):
        problem = f"{len(once):,} of its {len(names):,} values occur once" if single else f"{len(names):,} fractions"
        example = once[0] if single else names[1]
        raise ValueError(f"{what}: {problem}, such as {example!r}; expected labels that images share")
    _warn_of(names, what)
    codes = pd.Series(pd.Categorical(text, names).codes, dtype="Int32")
    return codes.mask(codes < 0), tuple(names)


def _warn_of(names: Sequence[str], what: str) -> None:
    """Warn of labels that differ by case or invisibly alone, and of those that may stand for a missing one."""
    looks: dict[str, list[str]] = {}
    for name in names:
        looks.setdefault(_look(name), []).append(name)
    alike = [" and ".join(map(repr, same)) for same in looks.values() if len(same) > 1]
    if alike:
        log.warning("%s: labels that differ by case or invisibly alone count as different: %s", what, few(alike))
    missing = [name for name in names if name.lower() in _NOT_MISSING]
    if missing:
        log.warning("%s: %s is a label like any other; a cell without a label is empty", what, few(missing))


def _look(text: str) -> str:
    """A text without case, accidents of encoding and characters that cannot be seen."""
    seen = (char for char in normalize("NFKC", text).casefold() if category(char) != "Cf")
    return " ".join("".join(seen).split())


def known(text: pd.Series, what: str) -> pd.Series:
    """Attributes, null where they are -1, unless this is a code beside 1 alone; a warning says which."""
    text = text.map(plain, na_action="ignore")
    unknown = text == "-1"
    if not unknown.any():
        return text
    if set(text.dropna()) == {"-1", "1"}:
        log.warning("%s: holds -1 and 1 alone, so -1 is taken for a value and not for unknown", what)
        return text
    log.warning("%s: -1 is taken for unknown, in %s of %s rows", what, f"{unknown.sum():,}", f"{len(text):,}")
    return text.mask(unknown)


def attributes(values: pd.Series, what: str) -> pd.Series:
    """Attributes of any type as text, null where `tidy` or `known` take them for unknown."""
    return known(tidy(pa.array(values.map(str, na_action="ignore"), pa.string())).to_pandas(), what)


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
        raise ValueError(f"{what} is empty in row {int(text.isna().to_numpy().argmax()) + 1} (or nan)")


def require_unique(text: pd.Series, what: str) -> None:
    """Raise ValueError naming `what` and the first two rows that hold the same."""
    repeated = text[text.duplicated(keep=False)]
    if len(repeated):
        rows = np.flatnonzero(text == repeated.iloc[0])[:2] + 1
        raise ValueError(f"{what} holds {repeated.iloc[0]!r} twice, in rows {rows[0]} and {rows[1]}; once is allowed")


def require_files(folder: str | Path, paths: pd.Series, listed_in: str | Path, advice: str) -> pd.Series:
    """Return `paths` as they are on disk, perhaps in another Unicode form.

    Raises ValueError with the number of those that are no files in `folder`, and the first three of them. Every folder
    is listed once and no file is touched: a look at each file takes minutes on a network disk.
    """

    @cache
    def listed(place: str) -> tuple[dict[str, str], dict[str, str]]:
        """Folders and files in a folder, by their names and by these in NFC."""
        _, *names = next(os.walk(Path(folder, place)), ("", [], []))
        folders, files = ({normalize("NFC", name): name for name in some} | {n: n for n in some} for some in names)
        return folders, files

    @cache
    def on_disk(place: str) -> str:
        parent, name = os.path.split(place)
        return os.path.join(on_disk(parent), listed(on_disk(parent))[0].get(name, name)) if name else place

    def find(path: str) -> str | None:
        parent, name = os.path.split(path)
        found = listed(on_disk(parent))[1].get(name)
        return found and os.path.join(on_disk(parent), found)

    found = paths.map(find)
    missing = paths[found.isna()]
    if len(missing):
        parent, name = os.path.split(missing.iloc[0])
        like = [other for other in listed(on_disk(parent))[1] if _look(other) == _look(name)]
        near = f"; there is {like[0]!r}, which differs by case or invisibly" if like else ""
        shown = few([path if path.isprintable() else repr(path) for path in missing], 3)
        counts = f"{len(missing):,} of the {len(paths):,} images in it are not in {folder}"
        raise ValueError(f"{listed_in}: {counts}: {shown}{near}. {advice}")
    return found


def names_in(folder: str | Path) -> set[str]:
    """Names of the files in a folder; none where there is no such folder."""
    return {name for _, _, names in islice(os.walk(folder), 1) for name in names}

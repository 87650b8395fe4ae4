"""Several attributes as one: every combination of their values that occurs is a cell, which stands for an attribute."""

from collections.abc import Mapping, Sequence

import pandas as pd


def combine(
    columns: Mapping[str, tuple[pd.Series, Sequence[str]]],
) -> tuple[pd.Series, tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Cells of rows: their numbers, their names, and by attribute its value in each cell.

    columns: by the attribute's name the numbers of its values, null where unknown, and their names. A row with an
    unknown value is of no cell (null). Cells are in the order of their values.
    """
    numbers = pd.DataFrame({name: of.astype("Int32") for name, (of, _) in columns.items()})
    known = numbers.notna().all(axis=1)
    there = numbers[known].drop_duplicates().sort_values(list(columns))
    cell = pd.Series(pd.NA, numbers.index, dtype="Int32")
    cell[known] = pd.MultiIndex.from_frame(there).get_indexer(pd.MultiIndex.from_frame(numbers[known]))
    values = {name: tuple(names[i] for i in there[name]) for name, (_, names) in columns.items()}
    each = [dict(zip(values, of_cell, strict=True)) for of_cell in zip(*values.values(), strict=True)]
    return cell, tuple(map(cell_name, each)), values


def cell_name(values: Mapping[str, str]) -> str:
    """A cell for readers: `background land, size small`. values: of each attribute."""
    return ", ".join(f"{name} {value}" for name, value in values.items())

"""Table of the settings that results were made with, by method and dataset."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from hsfm.core.text_tables import Cell, TextTable
from hsfm.report.names import method_label

# what a table leaves to results/config.yaml: how models are loaded and pictures drawn
DETAILS = {"ddb": ("models", "token", "segment", "inpaint", "cut_paste")}


def list_settings(settings: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One row per dataset, method and setting: columns dataset, method, section, setting, value (a text).

    settings: by dataset, method (empty: of all) and section those that were used. Nested ones are named `outer/inner`;
    an empty one is "none".
    """
    rows = [
        {"dataset": dataset, "method": method, "section": section, "setting": name, "value": _text(value)}
        for dataset, by_method in settings.items()
        for method, sections in by_method.items()
        for section, values in sections.items()
        for name, value in _flat(values)
        if name.split("/")[0] not in DETAILS.get(section, ())
    ]
    return pd.DataFrame(rows, columns=["dataset", "method", "section", "setting", "value"])


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", of) for inner, of in _flat(value))
        else:
            yield name, value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(settings: pd.DataFrame) -> TextTable:
    """A row per method and setting, a column per dataset."""
    datasets = list(dict.fromkeys(settings["dataset"]))
    keys = ["method", "section", "setting"]
    values = settings.set_index([*keys, "dataset"])["value"].to_dict()
    # methods in the order of the first dataset that has them
    rows = [
        (
            Cell(method_label(method) if method else "all"),
            Cell(f"{section}/{name}"),
            *(Cell(values.get((method, section, name, dataset), "-")) for dataset in datasets),
        )
        for method, part in settings.groupby("method", sort=False)
        for method, section, name in part[keys].drop_duplicates().itertuples(index=False)
    ]
    notes = (
        "Settings as they were used, by where config/schema.json explains them (settings/{dataset}/...). - where a "
        "dataset has no such setting. The whole configuration is in results/config.yaml.",
    )
    header = ("Method", "Setting", *datasets)
    return TextTable(header=header, rows=tuple(rows), notes=notes, text_columns=len(header), title="Settings.")

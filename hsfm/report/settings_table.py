"""Table of the settings that results were made with, by method and dataset."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hsfm.core.text_tables import TextTable
from hsfm.report.names import method_label

# what a table leaves to results/config.yaml: how models are loaded and pictures drawn
DETAILS = {"ddb": ("models", "token", "segment", "inpaint", "cut_paste")}
KEYS = ["method", "section", "setting"]


def list_settings(settings: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One row per dataset, method and setting: columns dataset, method, section, setting, value (a text).

    settings: by dataset, method (empty: of all) and section those that were used. Nested ones are named `outer/inner`.
    """
    rows = [
        (dataset, method, section, name, _text(value))
        for dataset, by_method in settings.items()
        for method, sections in by_method.items()
        for section, values in sections.items()
        for flat in pd.json_normalize(dict(values), sep="/").to_dict("records")
        for name, value in sorted(flat.items())
        if name.split("/")[0] not in DETAILS.get(section, ())
    ]
    return pd.DataFrame(rows, columns=["dataset", *KEYS, "value"])


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(settings: pd.DataFrame) -> TextTable:
    """A row per method and setting, a column per dataset."""
    wide = settings.set_index([*KEYS, "dataset"])["value"].unstack("dataset").fillna("-")
    # methods in the order of the first dataset that has them
    order = settings.sort_values("method", key=lambda names: pd.factorize(names)[0], kind="stable")[KEYS]
    wide = wide.reindex(pd.MultiIndex.from_frame(order.drop_duplicates())).reset_index()
    columns = [
        ("Method", lambda row: method_label(row["method"]) if row["method"] else "all"),
        ("Setting", lambda row: f"{row['section']}/{row['setting']}"),
        *((dataset, dataset) for dataset in settings["dataset"].unique()),
    ]
    notes = (
        "Settings as they were used, by where config/schema.json explains them (settings/{dataset}/...). - where a "
        "dataset has no such setting. The whole configuration is in results/config.yaml.",
    )
    return TextTable.of(wide, columns, notes=notes, text_columns=len(columns), title="Settings.")

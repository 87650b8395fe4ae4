"""Table of measures beyond accuracy."""

import pandas as pd

from hsfm.core.text_tables import TextTable, percent
from hsfm.report.names import method_label

WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "ece": "calibration error",
    "ece_after": "after temperature scaling",
    "auroc": "AUROC",
}


def measures_table(measured: pd.DataFrame) -> TextTable:
    """The rows of `hsfm.evaluation.measures.measure` for readers."""
    names = [column.removesuffix("_percent") for column in measured if column.endswith("_percent")]
    columns = [("Method", lambda row: method_label(row["method"]))]
    columns += [(WORDS.get(name) or f"recall: {name.removeprefix('recall_')}", _cell(name)) for name in names]
    notes = (
        "On the test rows, in percent: mean ± sample standard deviation over seeds, and in parentheses the 95 % "
        "interval over test rows, drawn within the groups.",
        "Calibration error: expected, over 15 bins of equal width of the predicted class's probability, before and "
        "after logits are divided by the temperature of the lowest cross-entropy on validation. Rows that taught the "
        "head make that temperature too low."
        if "ece" in names
        else "",
    )
    return TextTable.of(
        measured, columns, notes=tuple(filter(None, notes)), text_columns=1, title="Measures beyond accuracy."
    )


def _cell(name: str) -> object:
    keys = [f"{name}_{key}" for key in ("percent", "deviation", "low", "high")]

    def cell(row: dict) -> str:
        value, deviation, low, high = map(row.get, keys)
        return percent(value, deviation) + ("" if pd.isna(value) else f" ({low:.1f} to {high:.1f})")

    return cell

"""Tables of computing costs: data frames in, tables of text out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hsfm.core.text import duration
from hsfm.core.text_tables import Cell, TextTable
from hsfm.report.costs import VARIANTS
from hsfm.report.names import method_label

ABSENT = (
    "Times are by the clock, as Snakemake's benchmarks have them, on a machine that may have done other things; memory "
    "is the largest resident set, GPU memory the peak of torch's allocator. - where a job has left no such record in "
    "logs/, which may be deleted; a job that went on after it was killed counts its last part."
)


def with_methods(costs: pd.DataFrame, methods: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per dataset and method of `report.costs.method_costs`: means over runs (memory: the highest), and `runs`.

    methods: those of every dataset, in the order of the table; one without a record has nulls.
    """
    times, sizes = ["seconds", "cpu_seconds"], ["memory_mb", "gpu_memory_mb"]
    rows = []
    for dataset, names in methods.items():
        for method in names:
            part = costs[(costs["dataset"] == dataset) & (costs["method"] == VARIANTS.get(method, method))]
            rows.append(
                {
                    "dataset": dataset,
                    "method": method,
                    "runs": len(part),
                    **{name: part[name].mean(skipna=False) if len(part) else np.nan for name in times},
                    **{name: part[name].max() for name in sizes},
                }
            )
    return pd.DataFrame(rows)


def costs_table(summary: pd.DataFrame) -> TextTable:
    """The rows of `with_methods` for readers."""
    rows = tuple(
        (
            Cell(row["dataset"]),
            Cell(method_label(row["method"])),
            time(row["seconds"]),
            time(row["seconds"] - _of_erm(summary, row["dataset"])) if row["method"] != "erm" else Cell("-"),
            time(row["cpu_seconds"]),
            megabytes(row["memory_mb"]),
            megabytes(row["gpu_memory_mb"]),
        )
        for _, row in summary.iterrows()
    )
    header = ("Dataset", "Method", "images to head", "more than ERM", "CPU time", "memory", "GPU memory")
    runs = summary["runs"].max()
    notes = (
        "From the images to one head: ERM's training and embedding, and the method's own stages; not the preparation "
        "of images, which serves all methods, nor scoring"
        + (f"; the mean over {runs} backbone runs. " if runs > 1 else ". ")
        + "Where each seed has a job of its own, the mean over seeds; a job that fits all seeds at once counts whole.",
        ABSENT,
    )
    return TextTable(header=header, rows=rows, notes=notes, title="What it takes from the images to one head.")


def _of_erm(summary: pd.DataFrame, dataset: str) -> float:
    own = summary[(summary["dataset"] == dataset) & (summary["method"] == "erm")]
    return float(own["seconds"].iloc[0]) if len(own) else np.nan


def stages_table(stages: pd.DataFrame) -> TextTable:
    """The rows of `hsfm.report.costs.stage_costs` for readers."""
    rows = tuple(
        (
            Cell(row["dataset"]),
            Cell(row["stage"]),
            Cell(method_label(row["method"]) if row["method"] else "all"),
            Cell(str(row["jobs"])),
            time(row["seconds"]),
            time(row["cpu_seconds"]),
            megabytes(row["memory_mb"]),
            megabytes(row["gpu_memory_mb"]),
        )
        for _, row in stages.iterrows()
    )
    header = ("Dataset", "Stage", "Method", "jobs", "time", "CPU time", "memory", "GPU memory")
    notes = ("A stage's jobs over all runs, seeds and shards: their times added up, of memory the highest.", ABSENT)
    return TextTable(header=header, rows=rows, notes=notes, text_columns=3, title="Time and memory of every stage.")


def time(seconds: float) -> Cell:
    return Cell("-") if pd.isna(seconds) else Cell(duration(seconds), order=round(float(seconds), 2))


def megabytes(number: float) -> Cell:
    if pd.isna(number):
        return Cell("-")
    text = f"{number / 1000:.1f} GB" if number >= 1000 else f"{number:.0f} MB"
    return Cell(text, order=round(float(number), 2))

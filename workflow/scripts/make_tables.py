"""Group all scores into the tables."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.text_tables import TextTable, write_table
from hsfm.evaluation.predictions import read_predictions
from hsfm.evaluation.scores import read_scores
from hsfm.report import comparison, tables, uncertainty


def make_tables(
    score_files: list[str], prediction_files: list[str], outputs: list[str], published: Mapping[str, str]
) -> None:
    """published: by dataset the source of its images, where there are published numbers for it."""
    scores = pd.concat([read_scores(path).assign(file=path) for path in score_files], ignore_index=True)
    measured = uncertainty.measure([read_predictions(path) for path in prediction_files], scores)
    aggregated = tables.aggregate(tables.summarise(scores)).merge(measured, on=["dataset", "method"])
    made: dict[str, Callable[[], tuple[pd.DataFrame, TextTable]]] = {
        "main": lambda: (ends(aggregated), tables.main_table(aggregated, scores)),
        "metrics": lambda: (ends(aggregated), tables.metrics_table(aggregated, scores)),
        "groups": lambda: groups(scores),
        "uncertainty": lambda: (aggregated, uncertainty.uncertainty_table(aggregated, predicted(scores))),
        "published": lambda: compared(aggregated, scores, published),
    }
    done = {name: made[name]() for name in {Path(path).stem: None for path in outputs}}
    for path in outputs:
        write_table(path, *done[Path(path).stem])


def ends(aggregated: pd.DataFrame) -> pd.DataFrame:
    """Without the differences, which a table of their own has."""
    return aggregated[[name for name in aggregated if "_to_" not in name]]


def predicted(scores: pd.DataFrame) -> pd.DataFrame:
    """The predictions that lie beside scores."""
    return scores.assign(file=scores["file"].str.replace("scores.parquet", "predictions.parquet", regex=False))


def groups(scores: pd.DataFrame) -> tuple[pd.DataFrame, TextTable]:
    frame = tables.group_table(scores)
    return frame, tables.groups_text(frame, scores)


def compared(
    aggregated: pd.DataFrame, scores: pd.DataFrame, published: Mapping[str, str]
) -> tuple[pd.DataFrame, TextTable]:
    frame = comparison.compare(aggregated, scores, published)
    return frame, comparison.published_table(frame, scores)


job.start(snakemake.log[0])
make_tables(
    list(snakemake.input.scores),
    list(snakemake.input.predictions),
    list(snakemake.output),
    snakemake.params.published,
)
job.finish("Tables", ", ".join(path for path in snakemake.output if path.endswith(".md")))

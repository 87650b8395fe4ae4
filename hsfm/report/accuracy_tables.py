"""All tables of accuracies, out of the scores and the predictions of every method."""

from collections.abc import Mapping, Sequence

import pandas as pd

from hsfm.core.text_tables import TextTable
from hsfm.evaluation.predictions import Predictions
from hsfm.report import comparison, tables, uncertainty


def accuracy_tables(
    scores: pd.DataFrame, predictions: Sequence[Predictions], left_out: pd.DataFrame, published: Mapping[str, str]
) -> dict[str, tuple[pd.DataFrame, TextTable]]:
    """Numbers and text of each table by name.

    scores: with a column `file`, beside which lie the predictions. left_out: of
    `hsfm.evaluation.scores.read_left_out`. published: by dataset the source of its images, where there are published
    numbers for it.
    """
    measured = uncertainty.measure([one for one in predictions if one.seeds], scores)
    aggregated = tables.in_blocks(tables.aggregate(tables.summarize(scores)))
    aggregated = aggregated.merge(measured, on=["dataset", "method"])
    aggregated = aggregated.merge(tables.held_out(scores), on=["dataset", "method"], how="left")
    # the differences have a table of their own
    ends = aggregated[[name for name in aggregated if "_to_" not in name]]
    groups = tables.group_table(scores)
    predicted = scores.assign(file=scores["file"].str.replace("scores.parquet", "predictions.parquet", regex=False))
    made = {
        "main": (ends, tables.main_table(aggregated, scores, left_out)),
        "metrics": (ends, tables.metrics_table(aggregated, scores)),
        "groups": (groups, tables.groups_text(groups, scores)),
        "uncertainty": (aggregated, uncertainty.uncertainty_table(aggregated, predicted)),
    }
    if published:
        compared = comparison.compare(aggregated, scores, published)
        unlike = comparison.unlike_published(scores, published)
        made["published"] = (compared, comparison.published_table(compared, scores, unlike))
    return made

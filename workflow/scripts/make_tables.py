"""Group all scores into the tables."""

from pathlib import Path

import pandas as pd

from hsfm import job, tables
from hsfm.scores import read_scores
from hsfm.table_text import write_table


def make_tables(score_files: list[str], outputs: list[str]) -> None:
    scores = pd.concat([read_scores(path) for path in score_files], ignore_index=True)
    aggregated = tables.aggregate(tables.summarise(scores))
    groups = tables.group_table(scores)
    frames = {"main": aggregated, "metrics": aggregated, "groups": groups}
    texts = {
        "main": tables.main_table(aggregated, scores),
        "metrics": tables.metrics_table(aggregated),
        "groups": tables.groups_text(groups),
    }
    for path in outputs:
        write_table(path, frames[Path(path).stem], texts[Path(path).stem])


job.start(snakemake.log[0])
make_tables(snakemake.input.scores, snakemake.output)
job.finish("Tables", ", ".join(path for path in snakemake.output if path.endswith(".md")))

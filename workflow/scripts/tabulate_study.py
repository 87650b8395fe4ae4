"""Write the table of one study over all datasets and backbones."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.core.text_tables import TextTable, write_table
from hsfm.evaluation.scores import read_scores
from hsfm.report import study_tables as report


def tabulate_study(paths: list[str], outputs: list[str], study: str) -> None:
    frame, text = {"sweep": sweep, "ablations": ablations, "validation_bias": bias}[study](paths)
    # results/{dataset}/run{run}/studies/{study}.parquet; a row begins with its dataset
    sources = {row[0].text: tuple(path for path in paths if Path(path).parts[-4] == row[0].text) for row in text.rows}
    text = replace(text, made_from=tuple(sources[row[0].text] for row in text.rows))
    for path in outputs:
        write_table(path, frame, text)


def sweep(paths: list[str]) -> tuple[pd.DataFrame, TextTable]:
    summary = report.summarise_sweep(
        pd.concat([read_frame(path, report.SWEEP_COLUMNS) for path in paths], ignore_index=True)
    )
    return summary, report.sweep_table(summary)


def ablations(paths: list[str]) -> tuple[pd.DataFrame, TextTable]:
    scores = pd.concat([read_scores(path) for path in paths], ignore_index=True)
    summary = report.summarise_ablations(scores)
    return summary, report.ablations_table(summary, scores)


def bias(paths: list[str]) -> tuple[pd.DataFrame, TextTable]:
    summary = report.summarise_bias(
        pd.concat([read_frame(path, report.BIAS_COLUMNS) for path in paths], ignore_index=True)
    )
    return summary, report.bias_table(summary)


job.start(snakemake.log[0])
tabulate_study(snakemake.input.results, snakemake.output, Path(snakemake.output[0]).stem)
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

"""Draw all methods of one dataset as points: worst group against average, or against time."""

import pandas as pd

from hsfm.core import job
from hsfm.evaluation.scores import read_scores
from hsfm.report import comparison_figures, figures
from hsfm.report.costs import method_seconds, read_costs
from hsfm.report.tables import aggregate, summarise


def draw_comparison(paths: list[str], outputs: list[str], logs: str, figure: str, dataset: str) -> None:
    summary = summarise(pd.concat([read_scores(path) for path in paths], ignore_index=True))
    aggregated = aggregate(summary)
    worst = "worst class" if comparison_figures.worst_of(aggregated) == "worst_class" else "worst group"
    if figure == "tradeoff":
        drawn = comparison_figures.draw_tradeoff(summary, aggregated, f"{dataset}: {worst} against average")
    else:
        seconds = method_seconds(read_costs(logs))
        seconds = seconds[seconds["dataset"] == dataset]
        drawn = comparison_figures.draw_time(aggregated, seconds, f"{dataset}: {worst} against training time")
    for path in outputs:
        figures.save(drawn, path)


job.start(snakemake.log[0])
draw_comparison(
    list(snakemake.input.scores),
    list(snakemake.output),
    snakemake.params.logs,
    snakemake.wildcards.figure,
    snakemake.wildcards.dataset,
)
job.finish("Figure", snakemake.output[0])

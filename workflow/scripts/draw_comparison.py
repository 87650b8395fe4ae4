"""Draw all methods of one dataset as points: worst group against average, or against time."""

from hsfm.core import job
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.comparison_figures import draw_time, draw_tradeoff, worst_of
from hsfm.report.costs import method_seconds, read_costs
from hsfm.report.figures import save
from hsfm.report.tables import METRICS, aggregate, summarize

job.start(snakemake.log[0])
dataset = snakemake.wildcards.dataset
summary = summarize(read_all_scores(snakemake.input.scores))
aggregated = aggregate(summary)
worst = METRICS[worst_of(aggregated)]
if snakemake.params.figure == "tradeoff":
    figure = draw_tradeoff(summary, aggregated, f"{dataset}: {worst} against average")
else:
    seconds = method_seconds(read_costs("logs"))
    figure = draw_time(aggregated, seconds[seconds["dataset"] == dataset], f"{dataset}: {worst} against training time")
save(figure, *snakemake.output)
job.finish("Figure", snakemake.output[0])

"""Draw the scores of one dataset: accuracy by group, and worst group against average and against time."""

from hsfm.core import job
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.comparison_figures import draw_time, draw_tradeoff, worst_of
from hsfm.report.costs import Stages, method_costs, read_costs
from hsfm.report.figures import draw_groups, save
from hsfm.report.tables import METRICS, aggregate, summarize

job.start(snakemake.log[0])
dataset, outputs = snakemake.wildcards.dataset, snakemake.output
scores = read_all_scores(snakemake.input.scores)
for path in outputs.groups:
    save(draw_groups(scores, f"{dataset}: test accuracy by group"), path)
summary = summarize(scores)
aggregated, stages = aggregate(summary), Stages(**snakemake.params.stages)
worst = METRICS[worst_of(aggregated)]
save(draw_tradeoff(summary, aggregated, f"{dataset}: {worst} against average"), *outputs.tradeoff)
costs = method_costs(read_costs("logs", stages), stages)
names = dict(zip(scores["file"].str.split("/").str[-2], scores["method"], strict=True))  # in folders, and in tables
seconds = costs[costs["dataset"] == dataset].replace({"method": names})
save(draw_time(aggregated, seconds, f"{dataset}: {worst} against training time"), *outputs.time)
job.finish("Figures", ", ".join(path for path in outputs if path.endswith(".png")))

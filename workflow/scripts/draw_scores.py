"""Draw the scores of one dataset: accuracy by group, and worst group against average and against time."""

from hsfm.core import job
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.comparison_figures import draw_time, draw_tradeoff, worst_of
from hsfm.report.costs import method_seconds, read_costs
from hsfm.report.figures import draw_groups, save
from hsfm.report.tables import METRICS, aggregate, summarize

job.start(snakemake.log[0])
dataset, outputs = snakemake.wildcards.dataset, snakemake.output
scores = read_all_scores(snakemake.input.scores)
for path in outputs.groups:
    save(draw_groups(scores, f"{dataset}: test accuracy by group"), path)
summary = summarize(scores)
aggregated, seconds = aggregate(summary), method_seconds(read_costs("logs"))
worst = METRICS[worst_of(aggregated)]
save(draw_tradeoff(summary, aggregated, f"{dataset}: {worst} against average"), *outputs.tradeoff)
seconds = seconds[seconds["dataset"] == dataset]
save(draw_time(aggregated, seconds, f"{dataset}: {worst} against training time"), *outputs.time)
job.finish("Figures", ", ".join(path for path in outputs if path.endswith(".png")))

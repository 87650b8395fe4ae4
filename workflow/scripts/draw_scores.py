"""Draw the scores of one dataset: accuracy by group, and worst group against average."""

from hsfm.core import job
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.figures import draw_groups, draw_tradeoff, save
from hsfm.report.tables import aggregate, summarize

job.start(snakemake.log[0])
dataset, outputs = snakemake.wildcards.dataset, snakemake.output
scores = read_all_scores(snakemake.input.scores)
for path in outputs.groups:
    save(draw_groups(scores, f"{dataset}: test accuracy by group"), path)
summary = summarize(scores)
save(draw_tradeoff(summary, aggregate(summary), dataset), *outputs.tradeoff)
job.finish("Figures", ", ".join(path for path in outputs if path.endswith(".png")))

"""Group all scores into the tables."""

from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.evaluation.predictions import read_predictions
from hsfm.evaluation.scores import read_all_scores, read_left_out
from hsfm.report.accuracy_tables import accuracy_tables

job.start(snakemake.log[0])
scores = read_all_scores(snakemake.input.scores)
predictions = [read_predictions(path) for path in snakemake.input.predictions]
left_out = read_left_out(snakemake.input.scores)
write_tables(snakemake.output, accuracy_tables(scores, predictions, left_out, snakemake.params.published))
job.finish("Tables", ", ".join(path for path in snakemake.output if path.endswith(".md")))

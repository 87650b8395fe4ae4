"""Make the tables: scores, HSFM's edits, what the run cost, and the versions it was made with."""

from dataclasses import replace

import pandas as pd

from hsfm.analysis.edits import read_edits
from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.evaluation.predictions import read_predictions
from hsfm.evaluation.scores import read_all_scores, read_left_out
from hsfm.report import costs
from hsfm.report.accuracy_tables import accuracy_tables
from hsfm.report.edit_tables import OF_RUNS, edits_table, summarize
from hsfm.report.versions import collect_versions, versions_table

job.start(snakemake.log[0])
inputs, params = snakemake.input, snakemake.params
scores = read_all_scores(inputs.scores)
predictions = [read_predictions(path) for path in inputs.predictions]
tables = accuracy_tables(scores, predictions, read_left_out(inputs.scores), params.published)

if inputs.edits:
    rows = []
    for frame, metadata in map(read_edits, inputs.edits):
        rows.append(frame.assign(**{name: metadata[name] for name in OF_RUNS}).astype(dict.fromkeys(OF_RUNS, float)))
    summary = summarize(pd.concat(rows, ignore_index=True))
    text = edits_table(summary)
    tables["edits"] = summary, replace(text, made_from=(tuple(inputs.edits),) * len(text.rows))  # a row measures all

stages = costs.Stages(**params.stages)
jobs = costs.of_plan(costs.read_costs("logs", stages), list(params.methods), **params.seeds, stages=stages)
for name, frame, as_text in [
    ("costs", costs.mean_costs(costs.method_costs(jobs, stages), params.methods), costs.costs_table),
    ("stages", costs.stage_costs(jobs), costs.stages_table),
    ("versions", collect_versions(jobs), versions_table),
]:
    tables[name] = frame, as_text(frame)
write_tables(snakemake.output, tables)
job.finish("Tables", ", ".join(path for path in snakemake.output if path.endswith(".md")))

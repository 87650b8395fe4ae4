"""Group the edits of all datasets into one table."""

from dataclasses import replace

import pandas as pd

from hsfm.analysis.edits import read_edits
from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.report.edit_tables import OF_RUNS, edits_table, summarize

job.start(snakemake.log[0])
files = snakemake.input.results
rows = []
for file in files:
    frame, metadata = read_edits(file)
    rows.append(frame.assign(**{name: metadata[name] for name in OF_RUNS}).astype(dict.fromkeys(OF_RUNS, float)))
summary = summarize(pd.concat(rows, ignore_index=True))
text = edits_table(summary)
text = replace(text, made_from=(tuple(files),) * len(text.rows))  # a row is a measure of all
write_tables(snakemake.output, {"edits": (summary, text)})
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

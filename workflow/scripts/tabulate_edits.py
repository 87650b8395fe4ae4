"""Group the edits of all datasets into one table."""

from dataclasses import replace

import pandas as pd

from hsfm.analysis.edits import read_edits
from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.report.edit_tables import direction_notes, edits_table, summarize

job.start(snakemake.log[0])
files = snakemake.input.results
frames, metadata = zip(*map(read_edits, files), strict=True)
runs: dict[str, list] = {}
for frame, of_run in zip(frames, metadata, strict=True):
    runs.setdefault(frame["dataset"].iloc[0], []).append(of_run)
summary = summarize(pd.concat(frames, ignore_index=True))
text = edits_table(summary, direction_notes(runs))
text = replace(text, made_from=(tuple(files),) * len(text.rows))  # a row is a measure of all
write_tables(snakemake.output, {"edits": (summary, text)})
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

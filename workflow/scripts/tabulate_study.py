"""Write the table of one study over all datasets and backbones."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.files import read_frames
from hsfm.core.text_tables import write_tables
from hsfm.evaluation.scores import BY_RULE, SCHEMA, read_all_scores, read_left_out
from hsfm.report.study_tables import tabulate

job.start(snakemake.log[0])
study, files = Path(snakemake.output[0]).stem, snakemake.input.results
left_out = read_left_out(files if study == "selection" else [])
if study == "selection":
    schemas = [SCHEMA if Path(file).name == "scores.parquet" else BY_RULE for file in files]  # ERM's have no rule
    rows = pd.concat([read_all_scores([file], schema) for file, schema in zip(files, schemas, strict=True)])
else:
    rows = read_all_scores(files) if study == "ablations" else read_frames(files, pq.read_schema(files[0]).names)
write_tables(snakemake.output, {study: tabulate(study, rows, left_out)})
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

"""Write the table of one study over all datasets and backbones."""

from pathlib import Path

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.files import read_frames
from hsfm.core.text_tables import write_tables
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.study_tables import tabulate

job.start(snakemake.log[0])
study, files = Path(snakemake.output[0]).stem, snakemake.input.results
rows = read_all_scores(files) if study == "ablations" else read_frames(files, pq.read_schema(files[0]).names)
write_tables(snakemake.output, {study: tabulate(study, rows)})
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

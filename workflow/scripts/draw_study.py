"""Draw the figure of one study of one dataset."""

from pathlib import Path

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.files import read_frames
from hsfm.report.figures import save
from hsfm.report.study_figures import draw_study

job.start(snakemake.log[0])
study, files = Path(snakemake.output[0]).stem, snakemake.input.results
rows = read_frames(files, pq.read_schema(files[0]).names)
for path in snakemake.output:
    save(draw_study(study, rows, snakemake.wildcards.dataset), path)
job.finish("Figure", snakemake.output[0])

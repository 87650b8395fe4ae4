"""Write the page that holds every table and figure."""

from datetime import date
from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.report.page import Picture, Table, made_from, provenance, write_page

job.start(snakemake.log[0])
inputs = snakemake.input
captions = {(path.parent.name, path.stem): path.read_text() for path in map(Path, inputs.captions)}
tables = [Table(p.stem, p.read_text(), captions["tables", p.stem]) for p in map(Path, inputs.tables)]
pictures = [
    Picture(p.parent.name, p.stem, p.read_bytes(), captions["figures", p.stem]) for p in map(Path, inputs.figures)
]
# of the results that the tables' rows are made from; where none says so, of the tables
results = [file for table in tables for file in made_from(table)] or inputs.tables
newest = max(Path(file).stat().st_mtime for file in results if Path(file).exists())
stages, versions, numbers = (pd.read_csv(inputs[name]) for name in ("stages", "versions", "numbers"))
origin = provenance(date.fromtimestamp(newest), stages, versions)
page = write_page(tables, pictures, numbers, Path(inputs.config).read_text(), origin)
with write_atomically(snakemake.output[0]) as temporary:
    temporary.write_text(page, encoding="utf-8")
job.finish("Report", snakemake.output[0])

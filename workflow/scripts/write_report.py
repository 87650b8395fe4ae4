"""Write the page that holds every table and figure."""

from datetime import date
from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.report.page import Picture, Table, made_from, provenance, write_page


def texts(paths: list[str]) -> dict[tuple[str, str], str]:
    """The captions by kind and name."""
    return {(Path(path).parent.name, Path(path).stem): Path(path).read_text() for path in paths}


def newest(tables: list[Table]) -> date:
    """The day of the newest of the results that the tables' rows are made from; where none says so, of the tables."""
    files = [file for table in tables for file in made_from(table)] or snakemake.input.tables
    return date.fromtimestamp(max(Path(file).stat().st_mtime for file in files if Path(file).exists()))


job.start(snakemake.log[0])
captions = texts(snakemake.input.captions)
tables = [
    Table(Path(path).stem, Path(path).read_text(), captions["tables", Path(path).stem])
    for path in snakemake.input.tables
]
pictures = [
    Picture(Path(path).parent.name, Path(path).stem, Path(path).read_bytes(), captions["figures", Path(path).stem])
    for path in snakemake.input.figures
]
stages, versions = (pd.read_csv(snakemake.input[name]) for name in ("stages", "versions"))
page = write_page(
    tables,
    pictures,
    pd.read_csv(snakemake.input.numbers),
    Path(snakemake.input.config).read_text(),
    provenance(newest(tables), stages, versions),
)
with write_atomically(snakemake.output[0]) as temporary:
    temporary.write_text(page, encoding="utf-8")
job.finish("Report", snakemake.output[0])

"""Write the page that holds every table and figure."""

from datetime import date
from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.report.page import write_page
from hsfm.report.summary import provenance

job.start(snakemake.log[0])
inputs = snakemake.input
stages, versions, numbers = (pd.read_csv(inputs[name]) for name in ("stages", "versions", "numbers"))
newest = max(Path(file).stat().st_mtime for file in inputs.results)
page = write_page(
    {file: Path(file).read_text() for file in inputs.tables},
    {file: Path(file).read_bytes() for file in inputs.figures},
    {(path.parent.name, path.stem): path.read_text() for path in map(Path, inputs.captions)},
    numbers,
    provenance(date.fromtimestamp(newest), stages, versions),
    settings=Path(inputs.config).read_text(),
    settings_file=inputs.config,
    command=snakemake.params.command,
)
with write_atomically(snakemake.output[0]) as temporary:
    temporary.write_text(page, encoding="utf-8")
job.finish("Report", snakemake.output[0])

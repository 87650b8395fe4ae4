"""Write the page that holds every table and figure, and the configuration that gives it again."""

from datetime import date
from pathlib import Path

import pandas as pd
import yaml

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.report.page import write_page
from hsfm.report.summary import provenance

HEADER = """\
# The configuration of these results, after overlays, --config and `base`. It gives the same again:
#   {command}
"""

job.start(snakemake.log[0])
outputs, params = snakemake.output, snakemake.params
inputs = snakemake.input
stages, versions, numbers = (pd.read_csv(inputs[name]) for name in ("stages", "versions", "numbers"))
settings = HEADER.format(command=params.command)
settings += yaml.safe_dump(params.config, sort_keys=False, allow_unicode=True, width=120)
newest = max(Path(file).stat().st_mtime for file in inputs.results)
page = write_page(
    {file: Path(file).read_text() for file in inputs.tables},
    {file: Path(file).read_bytes() for file in inputs.figures},
    {(path.parent.name, path.stem): path.read_text() for path in map(Path, inputs.captions)},
    numbers,
    provenance(date.fromtimestamp(newest), stages, versions),
    settings=settings,
    settings_file=outputs.config,
    command=params.command,
)
for path, text in ((outputs.config, settings), (outputs.page, page)):
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
job.finish("Report", outputs.page)

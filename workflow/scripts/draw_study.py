"""Draw the figure of one study of one dataset."""

from pathlib import Path

import pandas as pd

from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.report import figures, study_figures
from hsfm.report import study_tables as report


def draw_study(paths: list[str], outputs: list[str], study: str, dataset: str) -> None:
    columns = {"sweep": report.SWEEP_COLUMNS, "validation_bias": report.BIAS_COLUMNS}[study]
    frame = pd.concat([read_frame(path, columns) for path in paths], ignore_index=True)
    for path in outputs:
        if study == "sweep":
            figure = study_figures.draw_sweep(frame, f"{dataset}: HSFM under {frame['setting'].nunique()} settings")
        else:
            title = f"{dataset}: fitted on validation splits of growing bias"
            figure = study_figures.draw_bias(report.summarise_bias(frame), title)
        figures.save(figure, path)


job.start(snakemake.log[0])
draw_study(snakemake.input.results, snakemake.output, Path(snakemake.output[0]).stem, snakemake.wildcards.dataset)
job.finish("Figure", snakemake.output[0])

"""Group the edits of all datasets into one table."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from hsfm.analysis.edits import read_edits
from hsfm.core import job
from hsfm.core.text_tables import write_table
from hsfm.report.edit_tables import edits_table, summarise


def notes(parts: list[tuple[pd.DataFrame, dict]]) -> list[str]:
    """What a reader has to know about each dataset's directions and probe."""
    found: dict[str, list[dict]] = {}
    for rows, about in parts:
        found.setdefault(rows["dataset"].iloc[0], []).append(about)
    texts = []
    for dataset, runs in found.items():
        if not runs[0]["spurious"]:
            texts.append(
                f"{dataset}: no two attributes are known within a class, so that there is no spurious direction."
            )
            continue
        overlap, accuracy, ratio = (
            mean_of(runs, key) for key in ("directions_cosine", "probe_accuracy", "contrast_ratio")
        )
        split = "" if runs[0]["directions_of"] == "val" else " of train, since validation shows one attribute,"
        probed = "there are too few images for a probe"
        if accuracy is not None:
            probed = f"the probe{split} tells the attribute of {100 * accuracy:.1f} % of images it has not seen"
        angle = "" if overlap is None else f"; the two directions have a cosine of {overlap:.2f}"
        noise = (
            "" if ratio is None else f"; the attributes' means differ {ratio:.1f} times as much as shuffled ones' do"
        )
        texts.append(f"{dataset}: {probed}{angle}{noise}.")
    return texts


def mean_of(runs: list[dict], key: str) -> float | None:
    known = [about[key] for about in runs if about[key] is not None]
    return sum(known) / len(known) if known else None


job.start(snakemake.log[0])
parts = [read_edits(path) for path in snakemake.input.edits]
summary = summarise(pd.concat([rows for rows, _ in parts], ignore_index=True))
text = edits_table(summary, notes(parts))
text = replace(text, made_from=(tuple(snakemake.input.edits),) * len(text.rows))  # a row is a measure of all
for output in snakemake.output:
    write_table(Path(output), summary, text)
job.finish("Table", next(path for path in snakemake.output if path.endswith(".md")))

"""Files of a comparison: tables, figures, the page, heads and predictions."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd
import yaml

from hsfm import __version__
from hsfm.core.files import write_atomically
from hsfm.core.text_tables import TextTable, write_tables
from hsfm.deploy.compare import Comparison, Plan
from hsfm.evaluation.predictions import write_predictions
from hsfm.heads.head import write_heads
from hsfm.report.contents import caption
from hsfm.report.figures import draw_groups, draw_tradeoff, save
from hsfm.report.page import write_page
from hsfm.report.summary import Provenance
from hsfm.report.tables import aggregate, summarize

SETTINGS = "settings.yaml"


def write_results(
    folder: str | Path,
    comparison: Comparison,
    plan: Plan,
    *,
    command: str,
    more: Mapping[str, tuple[pd.DataFrame, TextTable]] | None = None,
) -> list[Path]:
    """Write everything about a comparison into a folder, and return the files of tables and the page.

    tables/NAME.csv and .md, figures/, report.html, settings.yaml, which gives the same again, and of each row
    heads/ROW.safetensors and predictions/ROW.parquet. command: with these settings, for the page. more: tables by name
    beside the comparison's.
    """
    folder = Path(folder)
    tables, numbers = {**comparison.tables, **(more or {})}, comparison.tables["uncertainty"][0]
    dataset = numbers["dataset"].iloc[0]
    files = [folder / "tables" / f"{name}.{suffix}" for name in tables for suffix in ("csv", "md")]
    write_tables(files, tables)
    for row, of in comparison.rows.items():
        write_heads(folder / "heads" / f"{row}.safetensors", of.saved)
        write_predictions(folder / "predictions" / f"{row}.parquet", of.predictions)
    settings = yaml.safe_dump(plan.as_yaml(), sort_keys=False, allow_unicode=True, width=120)
    page = write_page(
        {f"{folder}/tables/{name}.html": text.html(f"table-{name}") for name, (_, text) in tables.items()},
        _figures(folder / "figures" / dataset, comparison, dataset),
        {place: caption(*place).read_text() for place in _places(tables)},
        numbers,
        Provenance(date.today(), comparison.seconds, __version__, costs=False),
        settings=settings,
        settings_file=str(folder / SETTINGS),
        command=command,
        checkout=False,
    )
    for name, text in ((SETTINGS, settings), ("report.html", page)):
        with write_atomically(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [*files, folder / "report.html"]


def _places(tables: Mapping[str, object]) -> list[tuple[str, str]]:
    return [*(("tables", name) for name in tables), ("figures", "groups"), ("figures", "tradeoff")]


def _figures(folder: Path, comparison: Comparison, dataset: str) -> dict[str, bytes]:
    """The figures of all scores, written into the folder, by their files."""
    summary = summarize(comparison.scores)
    drawn = {
        "groups": draw_groups(comparison.scores, f"{dataset}: test accuracy by group"),
        "tradeoff": draw_tradeoff(summary, aggregate(summary), dataset),
    }
    for name, figure in drawn.items():
        save(figure, folder / f"{name}.png")
    return {str(folder / f"{name}.png"): (folder / f"{name}.png").read_bytes() for name in drawn}

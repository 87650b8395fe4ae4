"""Entries of Snakemake's report."""

from types import SimpleNamespace

from hsfm_workflow import ROOT
from hsfm_workflow.report import figure_files, reported, table_files


def entries(files):
    return {str(file): file.flags["report"] for file in reported(files) if getattr(file, "flags", None)}


def test_html_tables_and_png_figures_are_shown_with_caption_category_and_labels():
    (file, table), *none = entries(table_files("main")).items()
    assert (file, none) == ("results/tables/main.html", [])
    assert table.caption == str(ROOT / "workflow/report/tables/main.rst")
    assert (table.category, table.subcategory) == ("Results", "all datasets")
    assert table.labels(SimpleNamespace()) == {"result": "Worst group and average of every method (table)"}
    (file, figure), *none = entries(figure_files("groups")).items()
    assert (file, none) == ("results/figures/{dataset}/groups.png", [])
    assert (figure.category, figure.subcategory) == ("Groups", "{dataset}")
    labels = figure.labels(SimpleNamespace(dataset="birds"))
    assert labels == {"result": "Accuracy by group (figure)", "dataset": "birds"}

"""CHANGELOG, CITATION, LICENSE and CONTRIBUTING: of the forms that others read them by."""

import re
import tomllib
from pathlib import Path

import yaml

import hsfm

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_its_format_and_the_license_is_mit_everywhere():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"message", "title", "authors"} <= set(cff)
    assert (cff["cff-version"], cff["version"], cff["license"]) == ("1.2.0", hsfm.__version__, "MIT")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    (paper,) = cff["references"]
    for author in cff["authors"] + paper["authors"]:
        assert set(author) <= {"name"} or {"family-names", "given-names"} <= set(author)
    assert "arxiv.org/abs/2603.29313" in paper["url"]


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    form = r"\[(\d+)\.(\d+)\.(\d+)\] (?:- \d{4}-\d{2}-\d{2}|\(unreleased\))"
    versions = [tuple(map(int, re.fullmatch(form, heading).groups())) for heading in headings]
    assert versions == sorted(set(versions), reverse=True), "newest first"
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert f"[{hsfm.__version__}]" in text


def test_contributing_names_every_check_that_decides():
    for command in ("ruff check .", "snakefmt", "snakemake --lint", "pytest -n auto --ignore tests/slurm"):
        assert command in (ROOT / ".ci/run").read_text()
        assert command in (ROOT / "CONTRIBUTING.md").read_text()

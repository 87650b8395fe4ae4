"""CHANGELOG, CITATION, LICENSE and CONTRIBUTING: of the forms that others read them by."""

import re
import tomllib
from pathlib import Path

import yaml

import hsfm

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_the_citation_file_format():
    """Required keys, and the forms of values, of CFF 1.2.0."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] in ("software", "dataset")
    assert cff["version"] == hsfm.__version__
    assert cff["license"] == "MIT"
    (paper,) = cff["references"]
    assert {"type", "title", "authors"} <= set(paper)
    for authors in (cff["authors"], paper["authors"]):
        assert authors
        for author in authors:
            assert set(author) <= {"name"} or {"family-names", "given-names"} <= set(author)
    assert "arxiv.org/abs/2603.29313" in paper["url"]
    for one in paper["identifiers"]:
        assert one["type"] in ("doi", "url", "swh", "other")
    assert isinstance(cff["message"], str)


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    form = r"\[(\d+)\.(\d+)\.(\d+)\] (?:- \d{4}-\d{2}-\d{2}|\(unreleased\))"
    versions = [tuple(map(int, re.fullmatch(form, heading).groups())) for heading in headings]
    assert versions == sorted(set(versions), reverse=True), "newest first"
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert f"[{hsfm.__version__}]" in text


def test_the_license_is_mit_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert "WITHOUT WARRANTY OF ANY KIND" in text
    assert project["license"] == "MIT"
    assert "[MIT license](LICENSE)" in (ROOT / "CONTRIBUTING.md").read_text()


def test_contributing_names_what_decides():
    """Every check of .ci/run is among the commands that a contributor is told."""
    told = (ROOT / "CONTRIBUTING.md").read_text()
    for command in ("ruff check .", "snakefmt", "snakemake --lint", "pytest -n auto --ignore tests/slurm"):
        assert command in (ROOT / ".ci/run").read_text()
        assert command in told

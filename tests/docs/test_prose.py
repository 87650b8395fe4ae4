"""Prose that a machine can check: first words of docstrings, American spelling."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("hsfm", "workflow", "snakemake_logger_plugin_hsfm", "benchmarks", "tests", "docs/_extensions")
BRITISH = re.compile(
    r"(?:standardis|normalis|optimis|initialis|serialis|visualis|summaris|generalis|regularis|organis|minimis|maximis|randomis|"
    r"labell|modell|travell|cancell(?!ation)|colour|neighbour|behaviour|favour|honour|centre|grey(?!scale)|analyse|licence|"
    r"catalogue|artefact)",
    re.IGNORECASE,
)
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if path != Path(__file__))
KINDS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, KINDS) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def test_differences_from_the_originals_name_functions_that_exist():
    """Of ours, by file and function; a table in explanation/baselines.md."""
    text = (ROOT / "docs/explanation/baselines.md").read_text().partition("## Differences from the originals")[2]
    named = re.findall(r"`(hsfm/[a-z_/]+\.py)` `(\w+)`", text)
    assert len(named) > 30
    for path, name in named:
        assert re.search(rf"^\s*def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (path, name)


def test_docstrings_say_the_thing():
    """A docstring begins with a verb or a noun, not with "What", "How", "Whatever" or "Such"."""
    assert len(FILES) > 200
    wrong = re.compile(r"(?:What|How|Whatever|Such)\b")
    found = [(path, line, text) for path in FILES for line, text in docstrings(path) if wrong.match(text)]
    assert found == []


def test_code_and_pages_are_american():
    """The tables of renamed modules keep the old names."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "config/schema.json"]
    code = [path for path in FILES if not path.is_relative_to(ROOT / "tests")]
    british = [
        f"{path.relative_to(ROOT)}: {word[0]}"
        for path in [*pages, *code]
        if path.name != "CHANGELOG.md" and "_build" not in path.parts
        for word in BRITISH.finditer(path.read_text())
    ]
    assert british == []

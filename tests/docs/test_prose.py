"""Prose that a machine can check: first words of docstrings, American spelling."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Names that the file defines: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def test_files_are_found():
    assert len(FILES) > 200


def found(folder: str, texts: Callable, wrong: Callable) -> list[str]:
    """Places of a folder's files where `texts` gives one that is wrong."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in FILES
        if path.is_relative_to(ROOT / folder)
        for line, text in texts(path)
        if wrong(text)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_say_the_thing(folder):
    """A docstring begins with a verb or a noun, not with "What", "How", "Whatever" or "Such"."""
    assert found(folder, docstrings, re.compile(r"(?:What|How|Whatever|Such)\b").match) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_identifiers_are_american(folder):
    assert found(folder, names, BRITISH.search) == []


def test_messages_docstrings_and_pages_are_american():
    """Comments aside. The tables of renamed keys and modules keep the old names."""
    old = {"CHANGELOG.md", "config.py"}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "config/schema.json"]
    package = [path for path in FILES if path.is_relative_to(ROOT / "hsfm") or path.is_relative_to(ROOT / "workflow")]
    british = [
        f"{path.relative_to(ROOT)}: {word[0]}"
        for path in [*pages, *package]
        if path.name not in old and "_build" not in path.parts
        for word in BRITISH.finditer(path.read_text())
    ]
    assert british == []

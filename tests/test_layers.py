"""Imports go one way: the contracts of pyproject.toml, held by import-linter."""

import subprocess
import sys
from pathlib import Path

import hsfm.meta
from hsfm.methods.hsfm import train

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_package_says_what_its_room_is_for():
    packages = [path.parent for path in (ROOT / "hsfm").rglob("*.py")]
    for folder in set(packages) - {ROOT / "hsfm"}:
        assert (folder / "__init__.py").read_text().startswith('"""'), folder
    assert len([*(ROOT / "hsfm").glob("*.py")]) <= 3


def test_the_engine_keeps_its_old_name():
    assert hsfm.meta.train is train.train

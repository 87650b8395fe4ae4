"""Imports go one way: the contracts of pyproject.toml, held by import-linter."""

import shutil
import subprocess
import sys
from pathlib import Path

import hsfm.meta
from hsfm.methods.hsfm import train

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_imports_go_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_package_says_what_its_room_is_for():
    packages = [path.parent for path in (ROOT / "hsfm").rglob("*.py")]
    for folder in set(packages) - {ROOT / "hsfm"}:
        assert (folder / "__init__.py").read_text().startswith('"""'), folder
    assert len([*(ROOT / "hsfm").glob("*.py")]) <= 3


def test_an_import_against_the_layers_is_found(tmp_path):
    for name in ("hsfm", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "hsfm/core/metrics.py").write_text("from hsfm.report import names\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "hsfm.core is not allowed to import hsfm.report" in done.stdout


def test_the_engine_keeps_its_old_name():
    assert hsfm.meta.train is train.train

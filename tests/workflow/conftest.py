"""Copies of the finished minimal run for tests that read them, plan on them, or do something to them."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def finished(minimal_run, tmp_path_factory) -> Path:
    """A copy for the tests of a file. Those that change it put everything back."""
    return shutil.copytree(minimal_run, tmp_path_factory.mktemp("finished") / "hsfm")


@pytest.fixture
def copied(minimal_run, tmp_path) -> Path:
    """A copy of a test's own."""
    return shutil.copytree(minimal_run, tmp_path / "hsfm")


@pytest.fixture
def edited(finished):
    """Change files of the finished copy, and have them back afterwards."""
    before = {}

    def edit(path: str, change) -> None:
        file = finished / path
        before.setdefault(file, file.read_bytes())
        file.write_text(change(file.read_text()))

    yield edit
    for file, content in before.items():
        file.write_bytes(content)

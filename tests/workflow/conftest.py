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


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory) -> dict:
    """Settings of DDB by diffusion with tiny models of random weights."""
    from benchmarks import random_models  # slow to import

    models = random_models.write_all(tmp_path_factory.mktemp("models"))
    token = {"images": 4, "size": [16, 16], "initial_word": "bird", "steps": 4, "batch_size": 1, "accumulation": 2}
    return {
        "generator": "diffusion",
        "models": {**{name: {"name": path} for name, path in models.items()}, "local_files_only": True},
        "token": {**token, "lr": 0.01},
        "segment": {"prompt": "bird.", "batch_size": 4},
        "inpaint": {"prompt": "a photo of a {token} bird", "size": [32, 32], "steps": 2, "batch_size": 1},
    }

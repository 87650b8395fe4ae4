"""A wheel of the repository in a fresh environment, away from the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.repository import ROOT

PACKED = ("hsfm", "snakemake_logger_plugin_hsfm", "pyproject.toml", "README.md", "LICENSE")
PROGRAM = """
import numpy as np, sys
from hsfm import LLRClassifier
from pathlib import Path
import hsfm
data = {split: np.load(f"{split}.npz") for split in ("train", "val", "test")}
model = LLRClassifier(random_state=0).fit(data["train"]["x"], data["train"]["y"], data["val"]["x"], data["val"]["y"])
print(model.score(data["test"]["x"], data["test"]["y"]), Path(hsfm.__file__).parents[1])
"""


def without_python() -> dict[str, str]:
    """The environment without PYTHONPATH and its like: a clone on that path is an installed hsfm for pip."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """Its folder for programs. Packages other than hsfm are those of the environment that runs the tests; Snakemake and
    the workflow's Python cannot be imported."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / "source"]
    subprocess.run([*pip, *built], check=True, capture_output=True)
    shutil.rmtree(folder / "source")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    programs = folder / "env/bin"
    (wheel,) = folder.glob("hsfm-*.whl")
    install = [*pip, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, env=without_python(), check=True)
    (packages,) = folder.glob("env/lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("snakemake", "hsfm_workflow"):
        (packages / f"{name}.py").write_text(f"raise AssertionError('{name} is imported')")
    return programs


def test_a_wheel_compares_and_has_estimators_in_any_folder(environment, splits, tmp_path):
    for split, part in splits.items():
        np.savez(tmp_path / f"{split}.npz", x=part.features, y=part.y, attribute=part.attribute)
    how = {"cwd": tmp_path, "env": without_python(), "capture_output": True, "text": True}
    files = ["train.npz", "val.npz", "test.npz", "--methods", "erm", "llr", "--seeds", "1", "--jobs", "1"]
    done = subprocess.run([environment / "hsfm", "compare", *files, "--out", "out"], **how, check=False)
    assert done.returncode == 0, done.stderr
    assert "LLR     no" in done.stdout
    assert "<h3" in (tmp_path / "out/report.html").read_text()
    assert (tmp_path / "out/tables/main.csv").is_file()
    done = subprocess.run([environment / "python", "-c", PROGRAM], **how, check=False)
    assert done.returncode == 0, done.stderr
    score, place = done.stdout.split()
    assert float(score) > 0.5
    assert Path(place).is_relative_to(environment.parent)

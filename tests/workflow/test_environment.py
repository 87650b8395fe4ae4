"""environment.yml and pyproject.toml name the same packages, with the same bounds."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
# where conda-forge has another name
CONDA = {
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "py-opencv",
    "playwright": "playwright-python",
    "torch": "pytorch",
}


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [one for extra in ("cluster", "diffusion", "docs", "kubernetes", "test") for one in extras[extra]]
    extras = [one for one in named if not one.startswith("hsfm[")]
    pip = [*project["dependencies"], *extras]
    expected = {f"python{project['requires-python']}"}
    for requirement in pip:
        name, bound = requirement.partition(";")[0].split(">=")
        expected.add(f"{CONDA.get(name, name)}>={bound}")
    conda = set(yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"])
    assert conda - {"pip"} == expected

"""The rules as a module of somebody else's workflow, in another folder with folders of the same names."""

from pathlib import Path

import pytest
import yaml

from tests.repository import ROOT, RUN, copy_repository, python

SNAKEFILE = """
configfile: "settings.yaml"


module hsfm:
    snakefile:
        "{clone}/Snakefile"
    config:
        config["hsfm"]


use rule * from hsfm as hsfm_*


rule summarize:
    default_target: True
    input:
        "results/tables/main.csv",
        "results/report.html",
    output:
        "summary.csv",
    shell:
        "cp {{input[0]}} {{output}}"
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with a workflow of its own, and the clone that it uses."""
    folder = tmp_path_factory.mktemp("theirs")
    clone = copy_repository(tmp_path_factory.mktemp("ours") / "hsfm")
    for name in ("workflow", "lib", "config", "hsfm_workflow"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('another project')\n")
    (folder / "workflow/Snakefile").write_text(SNAKEFILE.format(clone=clone))
    minimal = yaml.safe_load((ROOT / "config/minimal.yaml").read_text()) | {"methods": ["erm", "dfr", "llr"]}
    (folder / "settings.yaml").write_text(yaml.safe_dump({"hsfm": minimal}))
    return folder, clone


def run(theirs: tuple[Path, Path], *arguments: str) -> str:
    folder, clone = theirs
    return python(folder, "-m", "snakemake", "--cores", "2", *arguments, code=clone).stdout


def test_another_workflow_runs_the_rules_under_names_of_its_own(theirs):
    folder, clone = theirs
    run(theirs)
    assert (folder / "summary.csv").read_bytes() == (folder / "results/tables/main.csv").read_bytes()
    assert (folder / RUN / "dfr/heads.safetensors").exists()
    assert (folder / "results/report.html").exists()
    assert not (clone / "results").exists(), "results lie where the other workflow runs"
    assert "Nothing to be done" in run(theirs, "--dry-run")
    assert "hsfm_fit_dfr" in run(theirs, "--list-rules").split()


def test_a_change_of_ours_reruns_what_it_concerns_there(theirs):
    _, clone = theirs
    module = clone / "hsfm/methods/dfr.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    out = run(theirs, "--dry-run")
    assert "hsfm_fit_dfr" in out
    assert "hsfm_fit_llr" not in out

"""A clone of the repository to run the workflow in, and what a run of Snakemake printed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINIMAL = ["--configfile", "config/minimal.yaml"]
RUN = Path("results/minibirds/run0")
CLONED = (
    *("Snakefile", "environment.yml", "hsfm", "snakemake_logger_plugin_hsfm", "workflow", "config", "profiles"),
    *("pyproject.toml", ".snakemake-workflow-catalog.yml"),
)
FAMILIES = {  # rules that a loop makes of one script
    "draw_figure": ("draw_examples", "draw_training", "draw_hard_set"),
    "draw_study": ("draw_sweep", "draw_validation_bias"),
    "tabulate_study": ("tabulate_sweep", "tabulate_ablations", "tabulate_validation_bias"),
}


def copy_repository(folder: Path) -> Path:
    """Copy what a clone holds, without results."""
    folder.mkdir(parents=True)
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def snakemake(
    folder: Path, *arguments: str, check: bool = True, also_on_path: Path | None = None
) -> subprocess.CompletedProcess:
    """Run Snakemake on the code of `folder`, not on an installed one; stdout and stderr together."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    path = folder if also_on_path is None else f"{folder}{os.pathsep}{also_on_path}"
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert not check or done.returncode == 0, done.stdout
    return done


def planned_by(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs by rule, or script where a loop makes rules of one, that a dry run lists, without `all`."""
    out = snakemake(folder, "--dry-run", *arguments).stdout
    if "Nothing to be done" in out:
        return {}
    table = out[out.rindex("Job stats:") :].split("total")[0]
    found = re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
    return dict(sum((Counter({family(rule): int(n)}) for rule, n in found if rule != "all"), Counter()))


def family(rule: str) -> str:
    """The script of a rule that a loop makes; other rules as they are."""
    return next((name for name, rules in FAMILIES.items() if rule in rules), rule)


def jobs_of_last_run(folder: Path) -> list[str]:
    """The rules of the jobs that the last run has finished, by Snakemake's own log."""
    log = max((folder / ".snakemake/log").glob("*.snakemake.log"))
    return [family(rule) for rule in re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", log.read_text(), re.M)]


def results(folder: Path) -> dict[str, str]:
    """Hash of every file under results/."""
    files = sorted(p for p in (folder / "results").rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run_python(program: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

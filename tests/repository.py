"""A clone of the repository to run the workflow in, and what a run of Snakemake printed."""

import atexit
import compileall
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

from tests import fork_server

ROOT = Path(__file__).parents[1]
MINIMAL = ["--configfile", "config/minimal.yaml"]
RUN = Path("results/minibirds/run0")
CLONED = (
    *("Snakefile", "environment.yml", "hsfm", "snakemake_logger_plugin_hsfm", "workflow", "config", "profiles"),
    *("pyproject.toml", ".snakemake-workflow-catalog.yml"),
)
FAMILIES = {  # rules that a loop makes of one script
    "draw_study": ("draw_sweep", "draw_validation_bias"),
    "tabulate_study": ("tabulate_selection", "tabulate_sweep", "tabulate_ablations", "tabulate_validation_bias"),
}
OF_DATASETS = ("score_heads", "draw_scores", "draw_figures")  # of which each dataset has its own rule


def copy_repository(folder: Path) -> Path:
    """Copy what a clone holds, without results, and with what a first plan would leave: compiled code, what is known of
    it, and the validated configuration.
    """
    return shutil.copytree(template(), folder)


@functools.cache
def template() -> Path:
    folder = Path(ending().enter_context(tempfile.TemporaryDirectory(prefix="hsfm-clone-")), "hsfm")
    folder.mkdir()
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    for package in ("hsfm", "workflow/hsfm_workflow", "snakemake_logger_plugin_hsfm"):
        compileall.compile_dir(folder / package, quiet=1)
    snakemake(folder, *MINIMAL, "--dry-run")
    for left in (folder / ".snakemake").iterdir():
        if left.name != "hsfm":
            shutil.rmtree(left)
    return folder


@functools.cache
def ending() -> ExitStack:
    """Closed when this process of tests ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack


@functools.cache
def probe() -> Path:
    """A folder for PYTHONPATH with which Python runs in forks of a process that ends with the tests."""
    folder = ending().enter_context(tempfile.TemporaryDirectory(prefix="hsfm-forks-"))
    return ending().enter_context(fork_server.started(Path(folder)))


def environment(folder: Path) -> dict[str, str]:
    """That of a program on the code of `folder`, not on an installed one; Python and its children run in forks."""
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{probe()}"}


def python(
    folder: Path, *arguments: str, check: bool = True, code: Path | None = None, before: Path | None = None
) -> CompletedProcess:
    """Run Python in a folder on its code or another's; stdout and stderr together. before: a program for all forks."""
    setting = {} if before is None else {fork_server.BEFORE: str(before)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(code or folder) | setting,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    return done


def run_python(program: str, folder: Path) -> str:
    return python(folder, "-c", program).stdout


def snakemake(folder: Path, *arguments: str, check: bool = True, before: Path | None = None) -> CompletedProcess:
    return python(folder, "-m", "snakemake", "--cores", "2", *arguments, check=check, before=before)


def planned_by(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs by rule, or script where a loop makes rules of one, that a dry run lists, without `all`."""
    out = snakemake(folder, "--dry-run", *arguments).stdout
    if "Nothing to be done" in out:
        return {}
    table = out[out.rindex("Job stats:") :].split("total")[0]
    jobs = Counter()
    for rule, number in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE):
        jobs[family(rule)] += int(number)
    return {rule: number for rule, number in jobs.items() if rule != "all"}


def rules_planned(folder: Path, *arguments: str) -> set[str]:
    return set(planned_by(folder, *arguments))


def family(rule: str) -> str:
    """The script of a rule that a loop makes; other rules as they are."""
    of_dataset = next((name for name in OF_DATASETS if rule.startswith(f"{name}_")), rule)
    return next((name for name, rules in FAMILIES.items() if rule in rules), of_dataset)


def jobs_of_last_run(folder: Path) -> list[str]:
    """The rules of the jobs that the last run has finished, by Snakemake's own log."""
    log = max((folder / ".snakemake/log").glob("*.snakemake.log"))
    return [family(rule) for rule in re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", log.read_text(), re.M)]


def results(folder: Path) -> dict[str, str]:
    """Hash of every file under results/."""
    files = sorted(p for p in (folder / "results").rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


TIMES = ("costs", "stages", "versions", "time", "report")  # say how long it took: no two runs are the same in that


def contents(folder: Path) -> dict[str, str]:
    """`results` but for the files that say how long it took."""
    return {name: digest for name, digest in results(folder).items() if Path(name).stem not in TIMES}

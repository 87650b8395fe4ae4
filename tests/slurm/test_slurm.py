"""The workflow on a real Slurm through profiles/slurm: what Slurm's own records say, and faults with the way back.

Run on any machine where `sbatch` answers. `HSFM_SLURM=required` turns the skip elsewhere into a failure. The folder of
the tests has to be one that the nodes share (`pytest --basetemp`).
"""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.repository import MINIMAL, ROOT, RUN, contents, copy_repository, snakemake

GPU_RULES = {"train_erm": 1, "extract_embeddings": 1, "fit_hsfm": 1}
CPU_RULES = {"pack_images": 1, "build_hard_set": 1, "score_heads_minibirds": 1}
# one method beside ERM: what there is to see of Slurm is the same with all of them
FEW = [*MINIMAL, "--config", "methods=[erm, hsfm]"]
TABLE = "results/tables/main.csv"
MINUTES = 15
LLR = f"{RUN}/llr/heads.safetensors"
# a partition's longest time, and jobs that take about ten seconds; the rest is the profile as it is
PROFILE = ["--profile", "profiles/slurm", "--resources", "gpu=1", f"runtime={MINUTES}",
           "--slurm-init-seconds-before-status-checks", "6"]  # fmt: skip


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module", autouse=True)
def _slurm_answers():
    try:  # without a controller sinfo waits for minutes
        subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get("HSFM_SLURM") == "required":
            pytest.fail(f"HSFM_SLURM=required, but {error}")
        pytest.skip(f"no Slurm here: {error}; docs/how-to/cluster.md#tests says how to bring one up")


def records(folder: Path) -> list[dict[str, str]]:
    """Slurm's records of all jobs that were submitted in a folder, in their order: fields of `scontrol show job`."""
    jobs = [line.split(" ", 1) for line in slurm("squeue", "--me", "--states=all", "-h", "-o", "%A %Z").splitlines()]
    ids = sorted(int(number) for number, where in jobs if where == str(folder))
    shown = [slurm("scontrol", "--oneliner", "show", "job", str(number)) for number in ids]
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown]


def of_rule(jobs: list[dict[str, str]], rule: str) -> list[dict[str, str]]:
    return [job for job in jobs if re.match(rf"rule_{rule}(_wildcards_|$)", job["Comment"])]


def megabytes(job: dict[str, str]) -> int:
    number, unit = re.search(r"mem=([\d.]+)([MG])", job["TRES"]).groups()
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def wait_for(what: str, condition, output: Path, seconds: int = 150):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.5)
    pytest.fail(f"waited {seconds} s for {what}:\n{output.read_text()}")


@contextmanager
def snakemake_under_slurm(folder: Path, output: Path, *arguments: str):
    """A Snakemake that runs beside the test and ends with it."""
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *PROFILE, *arguments], cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finished(folder: Path, output: Path, *arguments: str) -> tuple[int, str]:
    """Snakemake's exit code and output."""
    with snakemake_under_slurm(folder, output, *arguments) as process:
        return process.wait(timeout=200), output.read_text()


def clean_up(folder: Path) -> None:
    """Cancel the jobs of a folder, and end what of them lives on here: one that ends meanwhile may hang."""
    jobs = [job["JobId"] for job in records(folder) if job["JobState"] in ("RUNNING", "PENDING", "COMPLETING")]
    if jobs:
        slurm("scancel", *jobs)
        time.sleep(1)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended in the meantime
            if str(folder) in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)


def recover(folder: Path) -> None:
    """Follow docs/how-to/cluster.md after Snakemake was killed, but for the last line, which runs it again."""
    docs = (ROOT / "docs/how-to/cluster.md").read_text().split("## Continue after Snakemake was killed")[1]
    *first, again = re.search(r"```bash\n(.*?)```", docs, re.DOTALL)[1].splitlines()
    assert again == "snakemake --profile profiles/slurm"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": path}
    subprocess.run(["bash", "-euc", "\n".join(first)], cwd=folder, env=environment, timeout=120, check=True)


class Disturbed(NamedTuple):
    """A run that was disturbed twice and finished, and one that was not."""

    folder: Path
    undisturbed: Path
    canceled: str  # number of the training that `scancel` took away
    orphan: str  # number of the job that ran when Snakemake was killed
    first: str  # what Snakemake said until then
    after_the_kill: str  # the state of that job once Snakemake was gone


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    undisturbed = copy_repository(tmp_path_factory.mktemp("local") / "hsfm")
    # Slurm remembers a folder's jobs for longer than pytest its folders
    folder = copy_repository(tmp_path_factory.mktemp("slurm").resolve() / f"hsfm{time.time_ns()}")
    output = folder.parent / "first.log"

    def running(rule):
        return lambda: [job for job in of_rule(records(folder), rule) if job["JobState"] == "RUNNING"]

    try:
        with snakemake_under_slurm(folder, output, *FEW, "--", TABLE) as process:
            # its log: it is not Snakemake that runs by now, but the script
            wait_for("the training", (folder / "logs/minibirds/run0/train_erm.log").exists, output)
            canceled = running("train_erm")()[0]["JobId"]
            slurm("scancel", canceled)
            # beside the other, which waits for Slurm most of the time
            local = ThreadPoolExecutor().submit(snakemake, undisturbed, *FEW, "--", TABLE, LLR)
            orphan = wait_for("the embeddings", running("extract_embeddings"), output)[0]["JobId"]
            process.send_signal(signal.SIGKILL)
            process.wait()
        (after,) = [job["JobState"] for job in records(folder) if job["JobId"] == orphan]
        recover(folder)
        # and one rule that is given far too little for torch at first
        memory = ["--set-resources", "fit_llr:mem_mb=300 * 8 ** (attempt - 1)"]
        code, said = finished(folder, folder.parent / "again.log", *FEW, *memory, "--", TABLE, LLR)
        assert code == 0, said
        local.result()
        yield Disturbed(folder, undisturbed, canceled, orphan, output.read_text(), after)
    finally:
        clean_up(folder)


def test_slurm_ran_the_jobs_with_the_gpu_and_memory_that_they_ask_for(run):
    jobs = records(run.folder)
    done = [job for job in jobs if job["JobState"] == "COMPLETED"]
    expected = GPU_RULES | CPU_RULES
    # the embeddings may have been written before they could be canceled, and count twice then
    assert {rule: len(of_rule(done, rule)) for rule in expected} in (expected, {**expected, "extract_embeddings": 2})
    for rule in expected:
        for job in of_rule(jobs, rule):
            assert job["TimeLimit"] == f"00:{MINUTES}:00", job
            assert bool(re.match("gres[:/]gpu:1$", job.get("TresPerJob", ""))) == (rule in GPU_RULES), job
    first, second = of_rule(jobs, "train_erm")
    assert megabytes(second) == pytest.approx(2 * megabytes(first), abs=2), "by the attempt"
    # what is seconds of work stays where Snakemake runs
    assert not of_rule(jobs, "make_tables")
    assert not of_rule(jobs, "read_erm_head")


def test_a_canceled_job_comes_back_and_is_reported(run):
    trainings = of_rule(records(run.folder), "train_erm")
    assert [job["JobId"] == run.canceled for job in trainings] == [True, False]
    assert [job["JobState"] for job in trainings] == ["CANCELLED", "COMPLETED"]
    assert f"SLURM-job '{run.canceled}' failed, SLURM status is: 'CANCELLED'" in run.first
    assert "Trying to restart job" in run.first


def test_jobs_run_on_when_snakemake_is_killed_and_the_documented_commands_recover(run):
    assert run.after_the_kill in ("RUNNING", "COMPLETING")
    embeddings = of_rule(records(run.folder), "extract_embeddings")
    assert [job["JobId"] == run.orphan for job in embeddings] == [True, False]
    assert embeddings[1]["JobState"] == "COMPLETED"
    # its successor did not run beside it
    assert embeddings[0]["EndTime"] <= embeddings[1]["StartTime"]


def test_a_job_killed_for_memory_comes_back_with_more(run):
    killed, again = of_rule(records(run.folder), "fit_llr")
    # OUT_OF_MEMORY is of cgroups; without them Slurm knows but of a signal
    assert killed["JobState"] in ("FAILED", "OUT_OF_MEMORY")
    assert again["JobState"] == "COMPLETED"
    assert [megabytes(killed), megabytes(again)] == [300, 2400]


def test_a_disturbed_run_leaves_the_bytes_of_an_undisturbed_one(run):
    assert contents(run.folder) == contents(run.undisturbed)

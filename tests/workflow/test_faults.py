"""Faults outside the code: killed jobs, full and read-only disks, damaged and deleted files, clocks, locks.

docs/how-to/after-an-error.md has a table of all of them.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fork_server import BEFORE
from tests.repository import (
    MINIMAL,
    ROOT,
    RUN,
    TIMES,
    contents,
    copy_repository,
    environment,
    python,
    rules_planned,
    snakemake,
)  # fmt: skip

EMBEDDINGS = f"{RUN}/erm/embeddings/val.parquet"


def errors(out: str) -> list[str]:
    return re.findall(r"^ERROR: .*", out, re.MULTILINE)


# In every script of these rules `reached` is called at each rename, when a file is whole but not yet under its name.
AT_RENAMES = """
import hashlib, json, os, pathlib, signal, sys, time

here, renamed = pathlib.Path.cwd(), 0
state = here.parent


def before(rename):
    def watched(source, target, **options):
        global renamed
        job = getattr(sys.modules["__main__"], "snakemake", None)
        if job is not None and job.rule in RULES and os.path.relpath(target, here).startswith("results"):
            renamed += 1
            reached(job.rule)
        return rename(source, target, **options)

    return watched


os.replace, os.rename = before(os.replace), before(os.rename)
"""
KILLER = """
def reached(rule):
    life = len(list(state.glob(f"{rule}.life*")))
    if life < 2 and renamed == life + 1:
        files = (path for path in pathlib.Path("results").rglob("*") if path.is_file() and "/." not in str(path))
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (state / f"{rule}.life{life}").write_text(json.dumps(found))
        os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDER = """
def reached(rule):
    if renamed == 2:
        pathlib.Path("held").touch()
        time.sleep(600)
"""
# a training, embeddings, parts, a fit, tables, a figure
SAMPLED = ("train_erm", "extract_embeddings", "make_masks", "fit_hsfm", "make_tables", "draw_scores_minibirds")


def test_jobs_that_are_killed_twice_lose_nothing(minimal_run, tmp_path):
    """Two runs from nothing, one of them disturbed, end in the same bytes, and nothing is ever half written. The
    disturbed one draws a single figure.
    """
    folder = copy_repository(tmp_path / "hsfm")
    killer = tmp_path / "killer.py"
    killer.write_text(f"RULES = {SAMPLED}\n{AT_RENAMES}{KILLER}")
    targets = ("results/tables/main.md", "results/figures/minibirds/groups.png")
    snakemake(folder, *MINIMAL, "--retries", "2", "--", *targets, before=killer)
    lives = list(tmp_path.glob("*.life*"))
    assert {path.stem for path in lives} == set(SAMPLED)
    whole = contents(minimal_run)
    for path in lives:
        for name, digest in json.loads(path.read_text()).items():
            if Path(name).stem not in TIMES:
                assert digest == whole[name], f"{name} was half written when {path.name} ended"
    assert contents(folder).items() <= whole.items(), "all bytes are the same, and nothing else lies there"
    assert "resuming after epoch 1 of 2" in (folder / "logs/minibirds/run0/train_erm.log").read_text()


def test_a_second_snakemake_is_refused_and_after_a_kill_the_next_goes_on(minimal_run, tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    holder = tmp_path / "holder.py"
    holder.write_text(f"RULES = ('train_erm',)\n{AT_RENAMES}{HOLDER}")
    target = f"{RUN}/erm/backbone.safetensors"
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", *MINIMAL, "--", target],
        cwd=folder, env=environment(folder) | {BEFORE: str(holder)}, start_new_session=True,
    )  # fmt: skip
    while not (folder / "held").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = snakemake(folder, *MINIMAL, "--", target, check=False)
    assert second.returncode != 0
    assert "Directory cannot be locked" in second.stdout
    assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / target).exists()
    snakemake(folder, *MINIMAL, "--unlock")
    snakemake(folder, *MINIMAL, "--", target)
    assert "resuming after epoch 1 of 2" in (folder / "logs/minibirds/run0/train_erm.log").read_text()
    assert not list((folder / RUN).glob("erm/.resume-*"))
    assert (folder / target).read_bytes() == (minimal_run / target).read_bytes()


def with_mounts(script: str, folder: Path) -> str:
    """Output of a shell script in a mount namespace of its own, as root or as a user who may be root in there."""
    (folder / "results").mkdir(exist_ok=True)
    for namespace in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        possible = subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", folder / "results"], capture_output=True)
        if possible.returncode == 0:
            break
    else:
        pytest.skip(f"nothing can be mounted here: {possible.stderr.decode().strip()}")
    return subprocess.run(
        [*namespace, "sh", "-c", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    ).stdout  # fmt: skip


def call(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "snakemake", "--cores", "2", *MINIMAL, *arguments])


WRITERS = """
from pathlib import Path

import numpy as np, pandas as pd, torch
from matplotlib.figure import Figure

from hsfm.core import files
from hsfm.report import figures

numbers = np.random.default_rng(0).random(100_000)
figure = Figure()
figure.subplots().imshow(numbers.reshape(400, 250))
for name, write in {
    "frame.parquet": lambda path: files.write_frame(path, pd.DataFrame({"a": numbers})),
    "heads.safetensors": lambda path: files.write_safetensors(path, {"a": torch.tensor(numbers)}, {}),
    "pixels.npy": lambda path: files.write_array(path, numbers),
    "figure.png": lambda path: figures.save(figure, path),
}.items():
    try:
        write(Path("results", name))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", *Path("results").iterdir())
"""


def test_a_full_disk_is_named_whatever_is_written(tmp_path):
    (tmp_path / "write.py").write_text(WRITERS)
    run = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} write.py"
    out = with_mounts(f"mount -t tmpfs -o size=96k none results; {run}", tmp_path)
    written = ("frame.parquet", "heads.safetensors", "pixels.npy", "figure.png")
    expected = [f"results/{name}: cannot be written (no space left on device)" for name in written]
    assert out.splitlines() == expected, "and nothing lies there"


def test_a_full_disk_stops_its_job_with_one_line_and_a_rerun_completes(minimal_run, tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    target = "results/minibirds/pixels.npy"
    out = with_mounts(
        f"""mount -t tmpfs -o size=400k none results; {call("--", target)}; find results -type f
        mount -o remount,size=100m results; {call("--", target)} && cp -r results kept""",
        folder,
    )
    (error,) = errors(out)
    assert error.startswith(f"ERROR: {target}: cannot be written (no space left on device)")
    assert "Traceback" not in out
    assert not re.search(r"^results/", out, re.MULTILINE), "nothing half written"
    assert (folder / "kept/minibirds/pixels.npy").read_bytes() == (minimal_run / target).read_bytes()


def test_a_read_only_folder_is_said_before_a_job_runs(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    parts = ("results", ".")
    out = with_mounts("".join(
        f"mount --bind {part} {part}; mount -o remount,ro,bind {part}; cd {shlex.quote(str(folder))}; {call()}\n"
        for part in parts
    ), folder)  # fmt: skip
    assert errors(out) == [
        f"ERROR: {(folder / part).resolve()}: is read-only, but the workflow writes there" for part in parts
    ]
    assert "Traceback" not in out
    assert "Packing the images" not in out


def test_a_home_that_takes_no_files_is_said_and_a_broken_configuration(copied, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/1/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    out = snakemake(copied, *MINIMAL, "--dry-run", check=False).stdout
    cache = "/proc/1/nowhere/.cache/snakemake: Snakemake cannot write there (No such file or directory)"
    assert errors(out) == [f"ERROR: {cache}; run XDG_CACHE_HOME=FOLDER snakemake ..."]
    assert "Traceback" not in out
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rules_planned(copied, *MINIMAL) == set()
    (copied / "broken.yaml").write_text("seeds: [0]\nruns: [0\n")
    for file, problem in (("none.yaml", ": No such file or directory"), ("broken.yaml", ", line 3: did not find")):
        (said,) = errors(snakemake(copied, "--dry-run", "--configfile", file, check=False).stdout)
        assert said.startswith(f"ERROR: {file}{problem}")


def test_a_deleted_output_is_made_again_where_something_needs_it(minimal_run, copied):
    for deleted in ("results/tables/main.md", EMBEDDINGS):
        (copied / deleted).unlink()
    assert rules_planned(copied, *MINIMAL) == {"make_tables", "write_report"}
    snakemake(copied, *MINIMAL, "--", "results/tables/main.md", EMBEDDINGS)
    assert rules_planned(copied, *MINIMAL) <= {"write_report"}, "small files are compared by what they hold"
    assert contents(copied) == contents(minimal_run)


def test_a_damaged_file_is_named_and_one_command_makes_it_anew(minimal_run, copied):
    path, target = copied / EMBEDDINGS, f"{RUN}/dfr/scores.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    out = snakemake(copied, *MINIMAL, "--forcerun", "fit_dfr", "--", target, check=False).stdout
    assert {line.startswith(f"ERROR: {EMBEDDINGS}: ") for line in errors(out)} == {True}
    assert "Traceback (most recent call last)" not in out
    snakemake(copied, *MINIMAL, "--forcerun", EMBEDDINGS, "--", target)
    assert contents(copied) == contents(minimal_run)


@pytest.mark.parametrize("seconds", [365 * 86_400, -365 * 86_400])
def test_a_clock_that_jumped_while_results_were_made_reruns_nothing_and_changed_code_is_seen(copied, seconds):
    for path in [*(copied / "results").rglob("*"), *(copied / "logs").rglob("*")]:
        if path.is_file():
            status = path.stat()
            os.utime(path, (status.st_atime + seconds, status.st_mtime + seconds))
    before = {path: path.stat().st_mtime_ns for path in (copied / "results").rglob("*")}
    assert rules_planned(copied, *MINIMAL) == set()
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing dates a file anew"
    module = copied / "hsfm/methods/dfr.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    planned = rules_planned(copied, *MINIMAL)
    assert {"fit_dfr", "score_heads", "make_tables"} <= planned
    assert "fit_llr" not in planned


def test_folders_of_logs_that_vanish_meanwhile_are_made_again(tmp_path):
    job_log = tmp_path / "logs/minibirds/fit.log"
    program = f"from hsfm.core import job; job.start({str(job_log)!r}); raise ValueError('x: is wrong')"
    assert python(ROOT, "-c", program, check=False).stdout == "ERROR: x: is wrong\n"
    assert "is wrong" in job_log.read_text()

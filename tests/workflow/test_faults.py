"""Faults outside the code: killed jobs, full and read-only disks, damaged and deleted files, clocks, locks.

docs/how-to/after-an-error.md has a table of all of them.
"""

import hashlib
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

from hsfm.core.files import read_frame
from hsfm.data.table import read_images
from hsfm.evaluation.predictions import read_predictions
from hsfm.evaluation.scores import read_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.features.standardize import read_standardization
from hsfm.heads.head import read_heads
from hsfm.models.backbone import read_checkpoint
from tests.fork_server import BEFORE
from tests.repository import MINIMAL, ROOT, RUN, copy_repository, environment, python, rules_planned, snakemake

EMBEDDINGS = f"{RUN}/erm/embeddings/val.parquet"
TIMES = ("costs", "stages", "versions", "time", "report")  # say how long it took: no two runs are the same in that


def contents(folder: Path) -> dict[str, str]:
    """Hash of every result, hidden ones too."""
    files = (path for path in sorted((folder / "results").rglob("*")) if path.is_file() and path.stem not in TIMES)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def errors(out: str) -> list[str]:
    """The error lines of a workflow's output; Snakemake's own account of the job that failed is not counted."""
    return [line for line in out.splitlines() if line.startswith("ERROR: ")]


# Killed jobs ----------------------------------------------------------------------------------------------------------

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
        files = (path for path in pathlib.Path("results").rglob("*") if path.is_file())
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
SAMPLED = ("train_erm", "extract_embeddings", "make_masks", "fit_hsfm", "make_tables", "draw_scores")


def test_jobs_that_are_killed_twice_lose_nothing(minimal_run, tmp_path):
    """Two runs from nothing, one of them disturbed, end in the same bytes, and nothing is ever half written."""
    folder = copy_repository(tmp_path / "hsfm")
    killer = tmp_path / "killer.py"
    killer.write_text(f"RULES = {SAMPLED}\n{AT_RENAMES}{KILLER}")
    snakemake(folder, *MINIMAL, "--retries", "2", before=killer)
    lives = list(tmp_path.glob("*.life*"))
    assert {path.stem for path in lives} == set(SAMPLED)
    whole = contents(minimal_run)
    for path in lives:
        for name, digest in json.loads(path.read_text()).items():
            if not Path(name).name.startswith(".") and "/." not in name and Path(name).stem not in TIMES:
                assert digest == whole[name], f"{name} was half written when {path.name} ended"
    assert contents(folder) == whole, "all bytes are the same, and nothing else lies there"
    assert (folder / "results/report.html").read_text().endswith("</html>\n")
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
    end = time.monotonic() + 120
    while not (folder / "held").exists():
        assert first.poll() is None
        assert time.monotonic() < end
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


# Disks ----------------------------------------------------------------------------------------------------------------


def with_mounts(script: str, folder: Path) -> str:
    """Output of a shell script in a mount namespace of its own, as root or as a user who may be root in there."""
    namespaces = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
    (folder / "results").mkdir(exist_ok=True)
    for namespace in namespaces:
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
        "mount -t tmpfs -o size=400k none results\n"
        f"{call('--', target)}\n"
        "find results -type f; echo MORE\n"
        "mount -o remount,size=100m results\n"
        f"{call('--', target)} && cp -r results kept",
        folder,
    )
    before, after = out.split("MORE\n")
    (error,) = errors(before)
    assert re.match(r"ERROR: results/minibirds/pixels.npy: cannot be written \(no space left on device\)", error)
    assert "Traceback" not in before
    assert not re.search(r"^results/.*", before.split("failed")[-1], re.MULTILINE), "nothing half written"
    assert not errors(after)
    assert (folder / "kept/minibirds/pixels.npy").read_bytes() == (minimal_run / target).read_bytes()


def test_a_read_only_folder_is_said_before_a_job_runs(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    commands = [
        f"mount --bind {part} {part}; mount -o remount,ro,bind {part}; cd {shlex.quote(str(folder))}; {call()}"
        for part in ("results", ".")
    ]
    out = with_mounts("; echo MORE; ".join(commands), folder).split("MORE\n")
    for said, part in zip(out, (folder / "results", folder), strict=True):
        assert errors(said) == [f"ERROR: {part.resolve()}: is read-only, but the workflow writes there"]
        assert "Traceback" not in said
        assert "Packing the images" not in said


# Deleted and damaged files --------------------------------------------------------------------------------------------


def test_a_deleted_output_is_made_again_where_something_needs_it(minimal_run, copied):
    """A table is asked for by `all`, an intermediate file by its name."""
    for deleted in ("results/tables/main.md", EMBEDDINGS):
        (copied / deleted).unlink()
    assert rules_planned(copied, *MINIMAL) == {"make_tables", "write_report"}
    snakemake(copied, *MINIMAL, "--", "results/tables/main.md", EMBEDDINGS)
    assert rules_planned(copied, *MINIMAL) <= {"write_report"}, "small files are compared by what they hold"
    assert contents(copied) == contents(minimal_run)


READERS = {
    "images.parquet": read_images,
    "backbone.safetensors": read_checkpoint,
    "standardization.safetensors": read_standardization,
    "history.parquet": lambda path: read_frame(path, ["epoch", "train_loss", "val_average"]),
    "val.parquet": read_embeddings,
    "heads.safetensors": read_heads,
    "scores.parquet": read_scores,
    "predictions.parquet": read_predictions,
}


@pytest.mark.parametrize("name", READERS)
def test_no_cut_goes_unnoticed(minimal_run, tmp_path, name):
    (source, *_) = sorted((minimal_run / "results").rglob(name))
    whole, path = source.read_bytes(), tmp_path / name
    for kept in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            READERS[name](path)


@pytest.mark.parametrize(
    ("damaged", "reader"), [(EMBEDDINGS, "fit_dfr"), (f"{RUN}/erm/backbone.safetensors", "extract_embeddings")]
)
def test_a_damaged_file_is_named_and_one_command_makes_it_anew(minimal_run, copied, damaged, reader):
    path, target = copied / damaged, f"{RUN}/dfr/scores.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    done = snakemake(copied, *MINIMAL, "--forcerun", reader, "--", target, check=False)
    assert done.returncode != 0
    assert errors(done.stdout)
    assert all(line.startswith(f"ERROR: {damaged}: ") for line in errors(done.stdout))
    assert "Traceback (most recent call last)" not in done.stdout
    snakemake(copied, *MINIMAL, "--forcerun", damaged, "--", target)
    assert contents(copied) == contents(minimal_run)


# Clocks, logs ---------------------------------------------------------------------------------------------------------

YEAR = 365 * 86_400


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
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
    """By a job: Snakemake made them before it."""
    job_log = tmp_path / "logs/minibirds/fit.log"
    program = f"from hsfm.core import job; job.start({str(job_log)!r}); raise ValueError('x: is wrong')"
    assert python(ROOT, "-c", program, check=False).stdout == "ERROR: x: is wrong\n"
    assert "is wrong" in job_log.read_text()

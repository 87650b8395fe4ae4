"""A job from its start to its end: its log, its line, its record, and the errors that end it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hsfm import __version__
from hsfm.core import job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A job that was started in this process, without what `start` does to the process."""
    monkeypatch.chdir(tmp_path)
    log = Path("logs/minibirds/run0/fit_hsfm.log")
    log.parent.mkdir(parents=True)
    monkeypatch.setattr(job, "_log", log)
    monkeypatch.setattr(job, "_used", {})
    return log


def record(log: Path) -> dict:
    return json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))


def run(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("log", "place"),
    [
        ("logs/make_tables.log", ""),
        ("logs/minibirds/draw_masks.log", "minibirds"),
        ("logs/minibirds/run10/fit_dac_seed2.log", "minibirds, run 10, seed 2"),
        ("logs/minibirds/run0/ddb/seed1/extract_embeddings_3-of-8.log", "minibirds, run 0, ddb, seed 1, shard 3 of 8"),
    ],
)
def test_the_place_of_a_job_is_in_the_name_of_its_log(log, place):
    assert job.place(log) == place


LIGHT = """
import sys
from hsfm.core import job
job.start("logs/minibirds/run0/score.log")
job.finish("HSFM", "test worst group 92.4 ± 0.2")
assert "torch" not in sys.modules and "tqdm" not in sys.modules
"""


def test_a_light_job_says_its_number_and_loads_nothing_for_its_record(tmp_path):
    done = run(LIGHT, tmp_path)
    assert done.returncode == 0, done.stderr
    summary = "HSFM minibirds run 0: test worst group 92.4 ± 0.2"
    assert done.stderr[8:] == f"    {summary}\n"
    log = tmp_path / "logs/minibirds/run0/score.log"
    assert f"{summary} (" in log.read_text()
    found = record(log)
    versions = found.pop("versions")
    assert 0 < found.pop("cpu_seconds") < 60
    assert 0 <= found.pop("seconds") < 60
    assert 5 < found.pop("memory_mb") < 5000
    assert found == {"summary": summary, "device": "cpu", "gpu_memory_mb": None}
    assert {"hsfm": __version__, "python": sys.version.split()[0], "torch": None}.items() <= versions.items()
    assert set(versions) == {"hsfm", "python", "torch", "torchvision", "cuda", "commit", "dirty"}
    assert [path.name for path in sorted(log.parent.iterdir())] == ["score.json", "score.log"]


def test_somebody_who_asked_for_quiet_sees_nothing(tmp_path):
    assert run(LIGHT, tmp_path, HSFM_QUIET="yes").stderr == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("ValueError('the input is wrong')", "the input is wrong"),
        ("OSError(28, 'cannot be written', 'results/x')", "results/x: cannot be written"),
        ("RuntimeError('a mistake')", None),
    ],
)
def test_an_error_about_input_is_one_line_and_leaves_no_record_of_an_earlier_run(tmp_path, error, line):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.json").touch()
    warn = "job.log.warning('x'); job.log.warning('x')"
    done = run(f"from hsfm.core import job; job.start('logs/a.log'); {warn}; raise {error}", tmp_path)
    log = (tmp_path / "logs/a.log").read_text()
    assert done.stderr.count("WARNING: x\n") == log.count(" x\n") == 1, "each once"
    assert not (tmp_path / "logs/a.json").exists()
    if line is None:
        assert "Traceback" in log
        assert "Traceback" in done.stderr
    else:
        assert done.stderr == f"WARNING: x\nERROR: {line}\n"
        assert f"ERROR: {line} (traceback: logs/a.traceback)\n" in log
        assert "Traceback" in (tmp_path / "logs/a.traceback").read_text()


def test_a_job_on_two_gpus_has_the_name_the_peak_and_the_versions(started, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"NVIDIA H100 number {number}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda number: [2.5e9, 1e9][number])
    job.finish("HSFM", "92.4")
    found = record(started)
    assert (found["device"], found["gpu_memory_mb"]) == ("NVIDIA H100 number 1", 2500.0)
    assert {"torch": torch.__version__, "cuda": torch.version.cuda}.items() <= found["versions"].items()


def test_devices_of_a_jobs_other_processes_count(started):
    job.used(device="2 x NVIDIA H100", gpu_memory_mb=12.5)
    job.finish("ERM", "94.1")
    found = record(started)
    assert (found["device"], found["gpu_memory_mb"]) == ("2 x NVIDIA H100", 12.5)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        (None, False),
        ("Snakefile", True),
        ("config/config.yaml", False),  # which is recorded as a whole
        ("hsfm/new.py", False),  # not tracked
    ],
)
def test_code_that_differs_from_its_commit_is_dirty(tmp_path, file, dirty):
    for name in ("hsfm/core/job.py", "Snakefile", "config/config.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    if file is not None:
        (tmp_path / file).write_text("2\n")
    assert job.code_state(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), dirty)
    installed = tmp_path / ".venv/lib/hsfm/core/job.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert job.code_state(tmp_path / ".venv/lib") == (None, None), "a repository around the code is not its own"


def test_code_outside_a_repository_and_without_git_has_no_commit(tmp_path, monkeypatch):
    assert job.code_state(tmp_path) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job.code_state(ROOT) == (None, None)


@pytest.mark.parametrize("script", sorted((ROOT / "workflow/scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_starts_and_ends_as_a_job(script):
    assert "job.start(snakemake.log[0]" in script.read_text()
    last = ast.parse(script.read_text()).body[-1]
    last = last.body[-1] if isinstance(last, ast.If) else last  # inside its guard where it has one
    assert ast.unparse(last).startswith("job.finish(")


def test_a_state_outlives_an_error_and_goes_when_the_work_is_done(tmp_path):
    output = tmp_path / "backbone.safetensors"

    def work(settings: dict, name: str = "", *, fails: bool = False) -> Path:
        with job.resuming(output, settings, name) as state:
            state.touch()
            if fails:
                raise KeyboardInterrupt
        return state

    for settings, name in (({"lr": 1}, ""), ({"lr": 2}, "class1-")):
        with pytest.raises(KeyboardInterrupt):
            work(settings, name, fails=True)
    first, second = sorted(tmp_path.iterdir(), key=lambda path: "class1" in path.name)
    assert first.name.startswith(".resume-")
    assert second.name.startswith(".resume-class1-")
    assert work({"lr": 3}, "class2-") != second
    assert second.exists(), "of another class"
    assert work({"lr": 2}, "class1-") == second
    assert list(tmp_path.iterdir()) == [first]
    work({"lr": 4})
    assert not list(tmp_path.iterdir()), "those of other settings too"

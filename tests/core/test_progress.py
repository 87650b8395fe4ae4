"""Progress: sparse lines in a job's log, one bar among the jobs of a terminal, tqdm for everybody else."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hsfm.core import progress
from hsfm.core.progress import Progress, quiet, track
from tests import terminal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def job(monkeypatch, caplog):
    """This process as a job whose standard error is no terminal, with a line for each step; what it logs."""
    monkeypatch.setattr(progress, "_role", "job")
    monkeypatch.setattr(progress, "EVERY", 1e-9)
    caplog.set_level(logging.INFO, logger="hsfm.core.progress")
    return caplog


def test_a_line_says_how_far_it_is_how_fast_and_how_long_it_will_take(job):
    with Progress("ERM", 162770, "image", done=100) as bar:
        bar.now("ERM, epoch 2 of 3")
        bar.update(23000)
    assert re.fullmatch(r"ERM, epoch 2 of 3:  14% 23100/162770 \[00:00<[\d:]+, [\d.]+image/s\]", job.messages[0])


def test_what_has_no_known_end_and_bytes_have_lines_too(job):
    with Progress("pruning", None, "image") as bar:
        bar.update(5)
    with Progress("waterbirds", 485_000_000, "B") as bar:
        bar.update(80_000_000)
    assert job.messages[0].startswith("pruning: 5image [")
    assert job.messages[-1].startswith("waterbirds:  16% 80.0M/485M [")


def test_short_work_says_nothing(job, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 60)
    assert list(track("abc", "spelling", "letter")) == list("abc")
    assert job.messages == []


def test_work_within_other_work_is_quiet_where_it_is_told_to(job):
    with quiet():
        with quiet():
            assert list(track(iter("abc"), "spelling", "letter", 3)) == list("abc")
        list(track("abc", "spelling", "letter"))
    assert job.messages == []
    list(track("abc", "spelling", "letter"))
    assert job.messages


LIBRARY = """
import logging, time
logging.basicConfig(level=logging.INFO)
from hsfm.core.progress import quiet, track
for item in track(range(3), "adding", "number"): time.sleep(0.1)
with quiet(): list(track(range(3), "silent", "number"))
"""


def test_who_calls_the_library_sees_tqdm_on_a_terminal_and_nothing_in_a_file(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIBRARY]
    shown = terminal.run(command, folder=tmp_path, environment=environment)
    assert re.search(r"adding: 100%\|.*\| 3/3 \[00:00<00:00, +[\d.]+number/s\]", terminal.screen(shown)[0])
    assert "silent" not in shown
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


JOB = """
import sys, time
from hsfm.core import job
from hsfm.core.progress import Progress

job.start(sys.argv[1])
with Progress(f"embedding for {sys.argv[1]}", 40, "image") as bar:
    for number in range(40):
        time.sleep(0.03)
        if number == 20:
            job.log.warning("half is done")
        bar.update()
job.finish("Embeddings", "40 images")
"""


def test_one_of_two_jobs_has_a_bar_above_which_both_print_their_lines(tmp_path):
    seen = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), progress.BAR: str(tmp_path / "bar")}
    environment.pop("NO_COLOR", None)
    written = terminal.run(
        *([sys.executable, "-c", JOB, f"logs/{name}/run0/extract.log"] for name in ("one", "two")),
        folder=tmp_path, environment=environment, look=lambda text: seen.append(terminal.screen(text)),
    )  # fmt: skip
    bars = [[line for line in lines if "embedding for" in line] for lines in seen]
    assert any(re.search(r" \d+%\|.*\d+/40 ", line) for lines in bars for line in lines)
    assert max(map(len, bars)) == 1
    left = [line for line in terminal.screen(written) if line.strip()]
    assert [line for line in left if line.startswith("WARNING")] == 2 * ["WARNING: half is done"]
    assert sorted(line[12:] for line in left if "WARNING" not in line) == [
        f"Embeddings {name} run 0: 40 images" for name in ("one", "two")
    ]
    assert "\x1b[32m" in written


def test_nothing_but_this_module_draws_bars():
    for path in [*ROOT.glob("hsfm/**/*.py"), *ROOT.glob("workflow/**/*.py")]:
        assert path.name == "progress.py" or not re.search(r"^\s*(import|from) tqdm", path.read_text(), re.MULTILINE), (
            path
        )

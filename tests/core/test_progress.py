"""Progress: sparse lines in a job's log, rows of a terminal that several jobs share, tqdm for everybody else."""

import ast
import logging
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from hsfm.core import progress
from hsfm.core.progress import Progress, quiet, track
from tests import terminal

ROOT = Path(__file__).parents[2]


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    return clock


@pytest.fixture
def job(monkeypatch, caplog):
    """This process as a job whose standard error is no terminal; what it logs."""
    monkeypatch.setattr(progress, "_place", "minibirds, run 0")
    caplog.set_level(logging.INFO, logger="hsfm.core.progress")
    return caplog


def work(clock: Clock, seconds: float | int, steps: int, what: str = "embedding train", size: int = 1) -> None:
    with Progress(what, steps * size, "image") as bar:
        for _ in range(steps):
            clock.seconds += seconds / steps
            bar.update(size)


@pytest.mark.parametrize("seconds", [0, 1, 9.9])
def test_short_work_says_nothing(job, clock, seconds):
    work(clock, seconds, 100)
    assert job.messages == []


def test_a_line_says_how_far_it_is_how_fast_and_how_long_it_will_take(job, clock):
    with Progress("embedding train", 162770, "image") as bar:
        clock.seconds += 10
        bar.update(23100)
    assert job.messages == [
        "embedding train: 23,100 of 162,770 images (14 %), 2,310 images/s, 1 min left",
    ]


def test_long_work_says_it_is_done(job, clock):
    work(clock, 100, 10, size=1000)
    assert job.messages[-1] == "embedding train: 10,000 images in 1 min 40 s, 100 images/s"


def test_lines_grow_sparser(job, clock):
    said = []
    with Progress("inpainting", 86400, "image") as bar:
        for _ in range(86400):
            clock.seconds += 1
            before = len(job.records)
            bar.update()
            if len(job.records) > before:
                said.append(clock.seconds - 1000)
    apart = [later - earlier for earlier, later in pairwise(said)]
    assert said[:3] == [10, 40, 70]
    assert min(apart) >= 30
    assert apart[-2] > 3600
    assert len(said) < 80


def test_the_rate_is_of_this_run_alone(job, clock):
    with Progress("decoding", 1000, "image", done=900) as bar:
        clock.seconds += 20
        bar.update(50)
    assert job.messages == ["decoding: 950 of 1,000 images (95 %), 2.5 images/s, 20 s left"]


def test_what_has_no_known_end_says_what_is_done(job, clock):
    with Progress("pruning", None, "image") as bar:
        clock.seconds += 50
        bar.update(5)
    assert job.messages == ["pruning: 5 images, 10 s per image"]


def test_bytes_are_readable(job, clock):
    with Progress("waterbirds", 485_000_000, "B") as bar:
        clock.seconds += 10
        bar.update(80_000_000)
    assert job.messages == ["waterbirds: 80 MB of 485 MB (16 %), 8 MB/s, 51 s left"]


def test_what_is_being_done_can_change(job, clock):
    with Progress("ERM", 100, "image") as bar:
        bar.now("ERM, epoch 2 of 3")
        clock.seconds += 10
        bar.update()
    assert job.messages[0].startswith("ERM, epoch 2 of 3: 1 of 100 images")


@pytest.mark.parametrize("shown", [True, False])
def test_only_one_of_several_processes_speaks(job, clock, monkeypatch, shown):
    monkeypatch.setattr(progress, "_silent", not shown)
    work(clock, 20, 20)
    with Progress("hidden", 2, "image", shown=False) as bar:
        clock.seconds += 100
        bar.update()
    assert bool(job.messages) == shown
    assert not any("hidden" in message for message in job.messages)


def test_items_pass_as_they_are(job, clock):
    def slowly():
        for item in "abc":
            clock.seconds += 20
            yield item

    assert list(track(slowly(), "spelling", "letter", 3)) == list("abc")
    assert job.messages[0] == "spelling: 1 of 3 letters (33 %), 20 s per letter, 40 s left"


def test_work_within_other_work_is_quiet_where_it_is_told_to(job, clock):
    with quiet():
        with quiet():
            work(clock, 100, 10)
        work(clock, 100, 10)
    assert job.messages == []
    with pytest.raises(ZeroDivisionError), quiet():
        1 / 0  # noqa: B018
    work(clock, 100, 10)
    assert job.messages


LIBRARY = """
import logging, time
logging.basicConfig(level=logging.INFO)
from hsfm.core.progress import Progress, track
for item in track(range(3), "adding", "number"): time.sleep(0.2)
with Progress("silent", 3, "number", shown=False) as bar: bar.update(3)
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
with Progress("embedding train", 40, "image") as bar:
    for number in range(40):
        time.sleep(0.1)
        if number == 20:
            job.log.warning("half is done")
        bar.update()
job.finish("Embeddings", "40 images")
"""


@pytest.fixture
def two_jobs(tmp_path):
    """The output of two jobs on a terminal, and all that was on its screen at some time."""
    (tmp_path / "bars").mkdir()
    seen = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), progress.BARS: str(tmp_path / "bars")}
    environment.pop("NO_COLOR", None)
    written = terminal.run(
        *([sys.executable, "-c", JOB, f"logs/{name}/run0/extract.log"] for name in ("one", "two")),
        folder=tmp_path, environment=environment, look=lambda text: seen.append(terminal.screen(text)),
    )  # fmt: skip
    return written, seen


def test_two_jobs_draw_in_rows_of_their_own_and_leave_their_last_lines(two_jobs, tmp_path):
    written, seen = two_jobs
    bar = r"{}, run 0: embedding train: [\d,]+ of 40 images .* left \[#+\.*\]"
    both = [
        lines for lines in seen
        if any(re.fullmatch(bar.format("one"), line) for line in lines)
        and any(re.fullmatch(bar.format("two"), line) for line in lines)
    ]  # fmt: skip
    assert len(both) > 3, "bars stand below one another"
    left = [line for line in terminal.screen(written) if line]
    assert [line for line in left if line.startswith("WARNING")] == 2 * ["WARNING: half is done"]
    assert sorted(line[12:] for line in left if "WARNING" not in line) == [
        f"Embeddings {name} run 0: 40 images" for name in ("one", "two")
    ]
    assert "\x1b[32m" in written
    assert "embedding" not in Path(tmp_path, "logs/one/run0/extract.log").read_text(), "4 s are too short for a line"


def test_a_bar_is_no_wider_than_the_terminal(tmp_path):
    (tmp_path / "bars").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), progress.BARS: str(tmp_path / "bars")}
    seen = []
    command = [sys.executable, "-c", JOB, "logs/a_dataset_of_a_long_name/run0/extract.log"]
    terminal.run(command, folder=tmp_path, environment=environment, columns=40,
                 look=lambda text: seen.append(terminal.screen(text)))  # fmt: skip
    bars = [line for lines in seen for line in lines if "embedding" in line]
    assert bars
    assert max(map(len, bars)) <= 39


def test_nothing_but_this_module_draws_bars():
    for path in [*ROOT.glob("hsfm/**/*.py"), *ROOT.glob("workflow/**/*.py")]:
        if path.name == "progress.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("tqdm") for name in names), path

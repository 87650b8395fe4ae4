"""Jobs that share a machine's GPUs, as real processes on pretended devices."""

import os
import re
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hsfm.core import gpus

ROOT = Path(__file__).parents[2]

# takes argv[1] GPUs, says which, and holds them until its standard input ends
HOLDER = """
import os, sys
from hsfm.core import job
job.start(sys.argv[2], gpus=int(sys.argv[1]), device=sys.argv[3] if len(sys.argv) > 3 else "auto")
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


class Machine:
    """An nvidia-smi that tells of two GPUs, which no other machine has, and jobs that ask for them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.uuids = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
        self.program = folder / "bin" / "nvidia-smi"
        self.program.parent.mkdir()
        self.says("\n".join(self.uuids))
        path = f"{self.program.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        self.environment.pop(gpus.VISIBLE, None)

    def says(self, text: str, code: int = 0) -> None:
        self.program.write_text(f"#!/bin/sh\ncat <<END\n{text}\nEND\nexit {code}\n")
        self.program.chmod(0o755)

    def start(self, program: str, *arguments: object, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, env={**self.environment, **environment}, text=True, **pipes)

    def job(self, n: int, name: str, *more: str, **environment: str) -> subprocess.Popen:
        """A job that was given n GPUs and holds what it has taken."""
        return self.start(HOLDER, n, self.folder / name, *more, **environment)


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for path in gpus.LOCKS.glob("*"):
        if any(name in path.stem for name in machine.uuids):
            path.unlink()


def devices_of(process: subprocess.Popen) -> list[str]:
    assert select.select([process.stdout], [], [], 30)[0], "the job still waits"
    return process.stdout.readline().strip().split(",")


def ends(*processes: subprocess.Popen) -> None:
    try:
        for process in processes:
            _, errors = process.communicate("", timeout=30)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


def test_a_killed_job_frees_its_gpus_and_the_waiting_one_says_that_it_waits(machine, tmp_path):
    first = machine.job(2, "first.log")
    assert devices_of(first) == machine.uuids
    # TMPDIR makes no difference
    second, log = machine.job(1, "second.log", TMPDIR=str(tmp_path)), tmp_path / "second.log"
    deadline = time.monotonic() + 30
    while not (log.exists() and "asking for 1 of 2 GPUs" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert second.poll() is None
    first.kill()
    assert devices_of(second) == machine.uuids[:1]
    first.communicate()
    third = machine.job(1, "third.log")
    assert devices_of(third) == machine.uuids[1:]
    ends(second, third)


def test_two_jobs_that_want_both_gpus_do_not_wait_for_one_another(machine):
    """Each holds one while others come and go, again and again."""
    program = """
import os, sys
from hsfm.core import gpus
for number in range(25):
    found = gpus.claim(int(sys.argv[1]), seconds=0.002)
    assert len(found) == int(sys.argv[1]), found
    for lock in gpus._held.values():
        lock.release()
    gpus._held.clear()
    del os.environ["CUDA_VISIBLE_DEVICES"]
"""
    ends(*[machine.start(program, n) for n in (2, 2, 1)])


def test_jobs_share_the_gpus_that_a_whole_run_was_restricted_to_and_keep_those_handed_to_them(machine):
    run = f"{machine.uuids[1]},MIG-GPU-{machine.uuids[0]}/1/0"
    jobs = [machine.job(1, f"{n}.log", CUDA_VISIBLE_DEVICES=run) for n in range(2)]
    jobs += [machine.job(1, f"given{n}.log", CUDA_VISIBLE_DEVICES=machine.uuids[1]) for n in range(2)]
    found = [devices_of(job) for job in jobs]
    assert sorted(found[:2]) == sorted([name] for name in run.split(","))
    assert found[2:] == [machine.uuids[1:]] * 2
    ends(*jobs)


def test_who_needs_no_gpu_or_finds_none_takes_none(machine):
    jobs = [
        machine.job(0, "0.log"),
        machine.job(1, "number.log", "cuda:1"),
        machine.job(1, "absent.log", PATH=str(machine.folder)),
    ]
    assert [devices_of(job) for job in jobs] == [["None"]] * 3
    ends(*jobs)
    machine.says("No devices were found", 6)
    job = machine.job(1, "none.log")
    assert devices_of(job) == ["None"]
    ends(job)


def test_more_gpus_than_there_are_is_one_line(machine):
    job = machine.job(3, "log")
    _, errors = job.communicate("", timeout=30)
    assert job.returncode == 1
    assert errors == (
        "ERROR: gpu: a job asks for 3 GPUs, but this machine has 2; lower training_gpus or --resources gpu\n"
    )


def test_the_driver_and_torch_agree():
    assert gpus.accelerator_present() == torch.cuda.is_available()


def test_scripts_that_compute_on_a_device_claim_its_gpus():
    for script in (ROOT / "workflow/scripts").glob("*.py"):
        computes = re.search(r"Compute\.on|choose_device|start_training", script.read_text()) is not None
        claims = "gpus=snakemake.resources.gpu, device=snakemake.params.device" in script.read_text()
        assert claims == computes, script.name


def test_no_module_asks_cuda_when_it_is_imported():
    """CUDA reads once which devices it may see, and importing torch alone does not make it."""
    for path in [*ROOT.glob("hsfm/**/*.py"), *ROOT.glob("workflow/**/*.py")]:
        assert not re.search(r"^(?!def |class |#)\S.*\bcuda\.\w+\(", path.read_text(), re.MULTILINE), path

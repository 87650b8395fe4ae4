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


class Machine:
    """An nvidia-smi that tells of so many GPUs, which no other machine has."""

    def __init__(self, folder: Path, n: int):
        self.uuids = [f"GPU-{uuid.uuid4()}" for _ in range(n)]
        self.program = folder / "bin" / "nvidia-smi"
        self.program.parent.mkdir()
        self.says("\n".join(self.uuids))
        path = f"{self.program.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        self.environment.pop(gpus.VISIBLE, None)

    def says(self, text: str, code: int = 0) -> None:
        self.program.write_text(f"#!/bin/sh\ncat <<END\n{text}\nEND\nexit {code}\n")
        self.program.chmod(0o755)

    def start(self, program: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments], env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    machine = Machine(tmp_path, 2)
    yield machine
    for path in gpus._folder().iterdir():
        if path.stem in machine.uuids:
            path.unlink()


# takes argv[1] GPUs, says which, and holds them until its standard input ends
HOLDER = """
import os, sys
from hsfm.core import job
job.start(sys.argv[2], gpus=int(sys.argv[1]), device=sys.argv[3] if len(sys.argv) > 3 else "auto")
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


def held(machine: Machine, n: int, log: Path, *more: str, **environment: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(n), str(log), *more], env={**machine.environment, **environment}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process


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


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < deadline, f"{log} never said {text!r}"
        time.sleep(0.05)


def test_a_killed_job_frees_its_gpus_and_the_waiting_one_says_that_it_waits(machine, tmp_path):
    first = held(machine, 2, tmp_path / "first.log")
    assert devices_of(first) == machine.uuids
    # TMPDIR makes no difference
    second = held(machine, 1, tmp_path / "second.log", TMPDIR=str(tmp_path))
    wait_for(tmp_path / "second.log", "asking for 1 of 2 GPUs")
    assert second.poll() is None
    first.kill()
    assert devices_of(second) == machine.uuids[:1]
    first.communicate()
    third = held(machine, 1, tmp_path / "third.log")
    assert devices_of(third) == machine.uuids[1:]
    ends(second, third)


def test_two_jobs_that_want_both_gpus_do_not_wait_for_one_another(machine, tmp_path):
    """Each holds one while others come and go, again and again."""
    program = """
import os, sys
from hsfm.core import gpus
for number in range(25):
    found = gpus.claim(int(sys.argv[1]), seconds=0.002)
    assert len(found) == int(sys.argv[1]), found
    for lock in gpus._held:
        lock.release()
    gpus._held.clear()
    del os.environ["CUDA_VISIBLE_DEVICES"]
"""
    ends(*[machine.start(program, n) for n in ("2", "2", "1")])


def test_devices_that_somebody_else_hands_out_are_kept(machine, tmp_path):
    for given in ("3", ""):
        jobs = [held(machine, 1, tmp_path / f"{n}.log", CUDA_VISIBLE_DEVICES=given) for n in range(3)]
        assert [devices_of(job) for job in jobs] == [[given]] * 3
        ends(*jobs)
    assert not [path for path in gpus._folder().iterdir() if path.stem in machine.uuids]


def test_jobs_share_the_gpus_that_a_whole_run_was_restricted_to(machine, tmp_path):
    run = f"{machine.uuids[1]},MIG-GPU-{machine.uuids[0]}/1/0"
    jobs = [held(machine, 1, tmp_path / f"{n}.log", CUDA_VISIBLE_DEVICES=run) for n in range(2)]
    assert sorted(devices_of(job)[0] for job in jobs) == sorted(run.split(","))
    ends(*jobs)
    for path in gpus._folder().glob(f"MIG-GPU-{machine.uuids[0]}*"):
        path.unlink()


def test_jobs_without_a_gpu_and_a_device_by_its_number_take_none(machine, tmp_path):
    jobs = [held(machine, 0, tmp_path / "0.log"), held(machine, 1, tmp_path / "1.log", "cuda:1")]
    assert [devices_of(job) for job in jobs] == [["None"]] * 2
    ends(*jobs)


def test_a_machine_without_gpus_is_left_as_it_is(machine, tmp_path):
    machine.says("No devices were found", 6)
    job = held(machine, 1, tmp_path / "none.log")
    assert devices_of(job) == ["None"]
    ends(job)
    machine.says("Failed to initialize NVML: Driver/library version mismatch", 18)
    job = held(machine, 1, tmp_path / "broken.log")
    assert devices_of(job) == ["None"]
    ends(job)
    assert "WARNING" not in (tmp_path / "none.log").read_text()
    assert "nvidia-smi fails (Failed to initialize NVML" in (tmp_path / "broken.log").read_text()
    machine.program.unlink()
    job = held(machine, 1, tmp_path / "absent.log", PATH=str(machine.program.parent))
    assert devices_of(job) == ["None"]
    ends(job)


def test_more_gpus_than_there_are_is_one_line(machine, tmp_path):
    job = held(machine, 3, tmp_path / "log")
    _, errors = job.communicate("", timeout=30)
    assert job.returncode == 1
    assert errors == (
        "ERROR: gpu: a job asks for 3 GPUs, but this machine has 2; lower training_gpus or --resources gpu\n"
    )


def test_the_driver_and_torch_agree():
    assert gpus.accelerator_present() == torch.cuda.is_available()


IMPORTS = """
import ast, sys
from pathlib import Path
import torch

def asked(*_):
    raise AssertionError("CUDA was asked for its devices")

for name in ("_cuda_getDeviceCount", "_cuda_init"):
    if hasattr(torch._C, name):
        setattr(torch._C, name, asked)
torch.cuda._raw_device_count_nvml = torch.cuda._device_count_nvml = torch.cuda.is_available = asked
torch.cuda.device_count = torch.cuda.is_bf16_supported = torch.cuda._lazy_init = asked
for script in sys.argv[1:]:
    body = ast.parse(Path(script).read_text()).body
    start = next(n for n, node in enumerate(body) if ast.unparse(node).startswith("job.start("))
    imports = [node for node in body[:start] if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), script, "exec"), {})
    print(script)
"""


def test_scripts_that_are_given_a_gpu_claim_it_and_import_nothing_that_asks_cuda_before():
    """CUDA reads which devices it may see once; importing torch alone does not make it."""
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    given = {
        re.findall(r'code_of\("(\w+)"|scripts/(\w+).py', rule)[0]
        for rule in re.split(r"^ *(?:use rule stage(?=\w* as )|rule:)", rules, flags=re.MULTILINE)
        if re.search(r"^_on_device|^ +gpu=", rule, re.MULTILINE) and "stage_on_device with" not in rule
    }
    given = {f"{''.join(names)}.py" for names in given}
    assert {"train_erm.py", "fit_method.py", "decode_edits.py"} <= given
    for script in (ROOT / "workflow/scripts").glob("*.py"):
        claims = "gpus=snakemake.resources.gpu, device=snakemake.params.device" in script.read_text()
        assert claims == (script.name in given), script.name
    scripts = sorted(str(ROOT / "workflow/scripts" / name) for name in given)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *scripts], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == scripts

"""ERM training as the workflow starts it: in one process, or in several through torchrun, which die together."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.core.files import write_array
from hsfm.data.sources import minibirds
from hsfm.data.table import ImageTable, complete, read_images, write_images
from hsfm.models import training_job
from hsfm.models.backbone import read_checkpoint
from hsfm.models.holdout import hold_out

ROOT = Path(__file__).parents[2]
EPOCHS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A table of minibirds: 58 images to train on, in batches of 15 and a last one of 13."""
    folder = tmp_path_factory.mktemp("images")
    sizes, agreement = {"train": 58, "val": 22, "test": 4}, {"train": 0.8, "val": 0.5, "test": 0.5}
    settings = minibirds.Settings(
        source="minibirds", sizes=sizes, agreement=agreement, image_size=32, hardness=0.15, seed=0
    )
    packed = minibirds.pack(settings)
    write_array(folder / "pixels.npy", packed.pixels)
    rows = complete(packed.rows.assign(path="pixels.npy", height=32, width=32), packed.attribute_names)
    table = ImageTable(rows, "minibirds", packed.class_names, packed.attribute_names)
    write_images(folder / "images.parquet", table)
    return folder / "images.parquet"


def arguments(images: Path, folder: Path, **erm) -> dict:
    training = {"epochs": EPOCHS, "batch_size": 15, "lr": 0.003, "momentum": 0.9, "nesterov": True,
                "weight_decay": 5e-4, "schedule": "one_cycle", "warmup": 0.2, "checkpoint": "last"}  # fmt: skip
    settings = {
        "backbone": {"name": "small_resnet", "pretrained": False, "weights": None, "train": True, "checkpoint": None},
        "transform": {"resize": None, "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3},
        "augmentation": {"random_resized_crop": None, "random_crop": {"padding": 2}, "flip": True},
        "training": {**training, **erm},
        "compute": {"precision": "auto", "deterministic": True, "compile": False, "images_on_gpu_gb": 32},
        "device": "cpu",
        "decode_size": {},
    }
    outputs = {"checkpoint": str(folder / "backbone.safetensors"), "history": str(folder / "history.parquet")}
    return {"images": str(images), "cache": [], **outputs, "run": 0, "settings": settings, "code": "0"}


# what a script of the workflow does, whose module its processes cannot import
SCRIPT = """
import json, sys
from hsfm.core import job
from hsfm.models.training_job import launch
job.start(sys.argv[2])
launch(json.loads(sys.argv[1]), 2, sys.argv[2])
json.dump(job._job.used, open("used.json", "w"))
"""


STARTED = []


@pytest.fixture(autouse=True)
def nothing_left():
    """Stop the processes that a failed test leaves running."""
    yield
    while STARTED:
        STARTED.pop().kill()


def start(arguments: dict, folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / "log").unlink(missing_ok=True)
    # importable as from a script of Snakemake's: for itself alone
    program = f"import sys; sys.path.append({str(ROOT)!r})\n{SCRIPT}"
    STARTED.append(subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(arguments), str(folder / "log")], cwd=folder, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ))  # fmt: skip
    return STARTED[-1]


def finish(process: subprocess.Popen) -> str:
    return process.communicate(timeout=120)[1]


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that this one has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"hsfm.models.training_job" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, what: str, seconds: float | int = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def epochs_in(folder: Path) -> list[int]:
    log = folder / "log"
    return [int(n) for n in re.findall(r":\d\d epoch (\d+) of", log.read_text())] if log.exists() else []


@pytest.fixture(scope="module")
def two(images, tmp_path_factory) -> Path:
    """The output of two undisturbed processes."""
    folder = tmp_path_factory.mktemp("two")
    process = start(arguments(images, folder), folder)
    assert finish(process) == ""
    assert process.returncode == 0
    # for the job's record: what its processes computed on
    assert json.loads((folder / "used.json").read_text()) == {"device": "cpu", "gpu_memory_mb": None, "driver": None}
    return folder


def test_two_processes_learn_what_one_does(images, two, tmp_path):
    training_job.train_erm(**arguments(images, tmp_path))
    expected, found = (pd.read_parquet(folder / "history.parquet") for folder in (tmp_path, two))
    # rounding grows from epoch to epoch; tests/models/test_distributed.py follows it in double precision
    pd.testing.assert_frame_equal(found.head(4), expected.head(4), rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3)
    networks = [read_checkpoint(folder / "backbone.safetensors") for folder in (tmp_path, two)]
    assert networks[0].metadata == networks[1].metadata
    states = [trained.network.state_dict() for trained in networks]
    for key, value in states[0].items():
        torch.testing.assert_close(
            states[1][key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    assert not list(two.glob(".resume-*"))
    log = (two / "log").read_text()
    assert "training in 2 processes" in log
    assert epochs_in(two) == list(range(1, EPOCHS + 1)), "one of them speaks"


def repainted(images: Path, folder: Path, rows: list[int]) -> Path:
    """The same table of the same images, but for some of the training images, which are noise."""
    folder.mkdir()
    table = read_images(images)
    pixels = np.load(images.with_name("pixels.npy"))
    places = table.split("train")["index"].to_numpy("int64")[rows]
    pixels[places] = np.random.default_rng(0).integers(0, 256, pixels[places].shape, np.uint8)
    write_array(folder / "pixels.npy", pixels)
    write_images(folder / "images.parquet", table)
    return folder / "images.parquet"


def test_a_network_does_not_see_what_is_held_out(images, tmp_path):
    few = {"epochs": 2, "batch_size": 16, "holdout": 0.2}
    y = torch.tensor(read_images(images).split("train")["y"].to_numpy("int64"))
    held_out = hold_out(y, 0.2, 0).tolist()
    assert len(held_out) == 12
    seen = next(row for row in range(len(y)) if row not in held_out)
    states = {}
    for name, rows in {"as they are": [], "held out": held_out, "one more": [*held_out, seen]}.items():
        folder = tmp_path / name
        training_job.train_erm(**arguments(repainted(images, folder, rows), folder, **few))
        states[name] = read_checkpoint(folder / "backbone.safetensors").network.state_dict()
    assert all(torch.equal(value, states["held out"][key]) for key, value in states["as they are"].items())
    assert any(not torch.equal(value, states["one more"][key]) for key, value in states["as they are"].items())


def test_killed_processes_take_the_others_along_and_the_next_run_goes_on(images, two, tmp_path):
    killed = tmp_path / "killed"
    process = start(arguments(images, killed), killed)
    wait_for(lambda: epochs_in(killed), "no epoch ended")
    pids = workers(process)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    errors = finish(process)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1] == (
        "RuntimeError: training process 1 was killed (SIGKILL), by hand or because the machine had no memory left"
    )
    wait_for(lambda: not any(map(alive, pids)), "a process survived the other")

    process = start(arguments(images, killed), killed)
    wait_for(lambda: epochs_in(killed), "no epoch ended")
    assert "resuming after epoch" in (killed / "log").read_text()
    pids = workers(process)
    process.kill()
    process.communicate()
    assert len(pids) == 2
    wait_for(lambda: not any(map(alive, pids)), "a process survived the one that had started it", 10)
    assert not (killed / "backbone.safetensors").exists(), "the run was over before it could be killed"

    process = start(arguments(images, killed), killed)
    assert finish(process) == ""
    assert epochs_in(killed)[0] > 1
    for name in ("backbone.safetensors", "history.parquet"):
        assert (killed / name).read_bytes() == (two / name).read_bytes()


def test_what_a_process_raises_is_one_line_and_its_traceback_beside_the_log(images, tmp_path):
    process = start(arguments(images, tmp_path / "failed", lr=1e30, schedule="constant"), tmp_path / "failed")
    errors = finish(process)
    assert process.returncode == 1
    assert errors == "ERROR: the training loss is nan in epoch 1; lower lr (now 1e+30)\n"
    assert "Traceback" not in (tmp_path / "failed/log").read_text()
    assert 'hsfm/models/erm.py", line' in (tmp_path / "failed/log.traceback").read_text()
    assert not (tmp_path / "failed/backbone.safetensors").exists()


def test_one_process_is_enough_where_there_is_one_device(images, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(training_job, "train_erm", lambda **given: called.append(("alone", given["run"])))
    monkeypatch.setattr(training_job, "launch", lambda given, n, log: called.append((n, given["run"])))
    given = arguments(images, tmp_path)
    for gpus in (0, 1, 2):  # on the CPU
        training_job.start_training(given, gpus=gpus, log_file="log")
    assert called == [("alone", 0)] * 3
    called.clear()
    monkeypatch.setattr(training_job, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for gpus in (1, 2):
        training_job.start_training(given, gpus=gpus, log_file="log")
    assert called == [("alone", 0), (2, 0)]
    with pytest.raises(ValueError, match="training_gpus: the job was given 3 GPUs, but CUDA shows 2"):
        training_job.start_training(given, gpus=3, log_file="log")

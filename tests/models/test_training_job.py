"""ERM training as the workflow starts it: in one process, or in several through torchrun, which end together."""

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
from hsfm.models.erm import Training
from hsfm.models.holdout import hold_out

ROOT = Path(__file__).parents[2]
EPOCHS = 20


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A table of minibirds, 58 of them to train on."""
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
    training = {"epochs": EPOCHS, "batch_size": 16, "lr": 0.003, "momentum": 0.9, "nesterov": True,
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
    return {"images": str(images), "cache": [], **outputs, "run": 0, "settings": settings}


# what a script of the workflow does, whose module its processes cannot import
SCRIPT = f"""
import json, sys
sys.path.append({str(ROOT)!r})
from hsfm.core import job
from hsfm.models.training_job import launch
job.start("log")
launch(json.loads(sys.argv[1]), 2, "log")
job.finish("ERM", "done")
"""


@pytest.fixture
def start(images, tmp_path):
    """Start two processes; what a failed test leaves running is stopped."""
    started = []

    def start(**erm) -> subprocess.Popen:
        given = {**arguments(images, tmp_path, **erm), "resume": str(tmp_path / "resume.pt")}
        command, environment = [sys.executable, "-c", SCRIPT, json.dumps(given)], {**os.environ, "OMP_NUM_THREADS": "2"}
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, env=environment, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for(condition, what: str, seconds: int = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def children_after_an_epoch(process: subprocess.Popen, resume: Path) -> list[int]:
    wait_for(resume.exists, "no epoch ended")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return list(map(int, children))


def test_processes_end_together_and_the_next_ones_go_on(start, tmp_path):
    process = start(early_epoch=1)
    killed, other = children_after_an_epoch(process, tmp_path / "resume.pt")
    os.kill(killed, signal.SIGKILL)
    errors = process.communicate(timeout=100)[1]
    assert errors.splitlines()[-1].startswith("RuntimeError: a training process was killed, by hand or for want of mem")
    assert not alive(other)
    (tmp_path / "resume.pt").unlink()

    process = start(early_epoch=1)
    children = children_after_an_epoch(process, tmp_path / "resume.pt")
    process.kill()
    wait_for(lambda: not any(map(alive, children)), "a process survived the one that had started it", 20)
    assert not (tmp_path / "backbone.safetensors").exists(), "the run was over before it could be killed"

    errors = start(early_epoch=1).communicate(timeout=200)[1]
    assert "done" in errors
    log = (tmp_path / "log").read_text()
    assert "training in 2 processes" in log
    assert "resuming after epoch" in log
    epochs = [int(n) for n in re.findall(r":\d\d epoch (\d+) of", log)]
    assert 1 < epochs[0] < EPOCHS
    assert epochs == list(range(epochs[0], EPOCHS + 1)), "one of the two speaks"
    assert pd.read_parquet(tmp_path / "history.parquet")["epoch"].tolist() == list(range(1, EPOCHS + 1))
    checkpoint = read_checkpoint(tmp_path / "backbone.safetensors")
    assert checkpoint.class_names == ("land bird", "water bird")
    assert checkpoint.early_logits.shape == (22, 2), "which the state of the killed training held"
    used = json.loads((tmp_path / "log.json").read_text())
    assert (used["device"], used["gpu_memory_mb"]) == ("2 x cpu", None)


def test_an_error_of_a_process_is_that_of_the_job(start, tmp_path):
    process = start(lr=1e30, schedule="constant")
    errors = process.communicate(timeout=200)[1]
    assert errors == "ERROR: the training loss is nan in epoch 1; lower lr (now 1e+30)\n"
    assert "Traceback" in (tmp_path / "log.traceback").read_text()
    assert process.returncode == 1


def test_a_network_does_not_see_what_is_held_out(images, tmp_path, monkeypatch):
    given = {}
    outcome = Training(pd.DataFrame(), None)
    monkeypatch.setattr(training_job, "train", lambda network, data, *rest, **named: given.update(data=data) or outcome)
    monkeypatch.setattr(training_job, "write_frame", lambda *rest: None)
    training_job.start_training(arguments(images, tmp_path, holdout=0.2), gpus=0, code="0", log_file="log")
    rows = read_images(images).split("train")
    y = torch.tensor(rows["y"].to_numpy("int64"))
    kept = np.setdiff1d(np.arange(58), hold_out(y, 0.2, 0))
    assert len(kept) == 46
    assert torch.equal(given["data"].training.y, y[kept])
    expected = np.load(images.with_name("pixels.npy"))[rows["index"].to_numpy("int64")[kept]]
    np.testing.assert_array_equal(
        given["data"].training.pixels.take(torch.arange(46)).stacked(), expected.transpose(0, 3, 1, 2)
    )


def test_one_process_is_enough_where_there_is_one_device(images, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(training_job, "train_erm", lambda device, **given: called.append(1))
    monkeypatch.setattr(training_job, "launch", lambda given, n, log: called.append(n))

    def start(gpus: int) -> None:
        training_job.start_training(arguments(images, tmp_path), gpus=gpus, code="0", log_file="log")

    start(2)  # on the CPU
    monkeypatch.setattr(training_job, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    start(1)
    start(2)
    assert called == [1, 1, 2]
    with pytest.raises(ValueError, match="training_gpus: the job was given 3 GPUs, but CUDA shows 2"):
        start(3)

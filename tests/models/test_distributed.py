"""Training that two processes share, against the same training in one process."""

import json
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

from hsfm.core.files import read_safetensors, write_safetensors
from hsfm.models import distributed, erm
from hsfm.models.backbone import Network
from hsfm.models.erm import Training
from tests.models.test_erm import AUGMENTED, bright_and_dark, interrupted, trained, under

SETTINGS = under(checkpoint="best_val", epochs=4, early_epoch=1)


def of_folder(folder: Path, resume: Path | None = None) -> tuple[Network, Training]:
    """A network without BatchNorm, which torch cannot share on the CPU; in double precision, so that no mistake hides
    behind rounding. 44 images: batches of 16, 16 and 12."""
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 4, 3, stride=4), "relu": nn.ReLU(), "flat": nn.Flatten(), "head": nn.Linear(64, 2)}
    network = Network(nn.Sequential(OrderedDict(layers)), "head", 2).double()
    network.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    data = bright_and_dark(folder, 44, 0), bright_and_dark(folder, 23, 1)
    return network, trained(network, *data, SETTINGS, augmentation=AUGMENTED, resume=resume)


def one_of_two(rank: int, folder: Path) -> None:
    """Train undisturbed, and once more with an interruption."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    own = folder / str(rank)
    own.mkdir()
    interrupted(partial(of_folder, own, folder / "resume.pt"), validations=2)
    for name, resume in {"undisturbed": None, "resumed": folder / "resume.pt"}.items():
        network, outcome = of_folder(own, resume)
        tensors = {**network.state_dict(), "early_logits": outcome.early_logits}
        write_safetensors(own / f"{name}.safetensors", tensors, {"history": outcome.history.to_json()})
    dist.destroy_process_group()


def test_two_processes_train_as_one_does_and_resume(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    network, outcome = of_folder(tmp_path)
    results = [read_safetensors(tmp_path / f"{rank}/{name}.safetensors") for rank in (0, 1)
               for name in ("undisturbed", "resumed")]  # fmt: skip
    for tensors, metadata in results:
        assert metadata["history"] == results[0][1]["history"]
        for key, value in {**network.state_dict(), "early_logits": outcome.early_logits}.items():
            assert torch.equal(tensors[key], results[0][0][key])
            torch.testing.assert_close(tensors[key], value, rtol=1e-6, atol=1e-7)
    found = pd.DataFrame(json.loads(metadata["history"])).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, outcome.history, check_dtype=False, rtol=1e-6, atol=1e-7)


@pytest.fixture
def several(monkeypatch):
    """Pretend to be one of several processes."""

    def pretend(rank: int, count: int) -> None:
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: count)

    return pretend


@pytest.mark.parametrize(("count", "n", "size"), [(1, 45, 16), (3, 45, 16), (4, 50, 16), (2, 33, 16), (2, 34, 15)])
def test_shares_cover_everything_once_and_are_of_equal_length(several, count, n, size):
    every, even, batches = [], [], []
    for rank in range(count):
        several(rank, count)
        every += range(n)[distributed.share(n)]
        cut = erm._cut(n, size)
        even.append(range(n)[distributed.share(cut.used)])
        batches.append(torch.tensor(even[-1]).split(cut.size))
    assert sorted(every) == list(range(n))
    used = sorted(row for own in even for row in own)
    assert used == list(range(cut.used))
    assert cut.used > n - count
    assert {(len(own), len(split)) for own, split in zip(even, batches, strict=True)} == {
        (cut.used // count, cut.steps)
    }
    if size % count == 0:  # then a step is of the images that it would be of in one process
        for step, whole in enumerate(torch.arange(cut.used).split(size)):
            assert sorted(torch.cat([split[step] for split in batches]).tolist()) == whole.tolist()


def test_batchnorm_of_another_library_is_refused(several):
    class Mine(nn.BatchNorm2d):
        pass

    several(0, 2)
    with pytest.raises(ValueError, match="training_gpus: the network has a Mine, whose statistics several GPUs cannot"):
        distributed.data_parallel(network := nn.Sequential(nn.Conv2d(3, 4, 1), Mine(4)), network)

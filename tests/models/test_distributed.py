"""A training that several processes share, against the same training in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from hsfm.core.device import Compute
from hsfm.core.files import read_safetensors
from hsfm.data.transforms import AugmentationSettings
from hsfm.models.backbone import build_network
from hsfm.models.distributed import Processes, SyncedOnCPU
from hsfm.models.erm import AdamSettings, AuxiliaryData
from tests.models.test_erm import bright_and_dark, learn, under

ROOT = Path(__file__).parents[2]

# Of three processes: batches of 16 are parts of 6, 5 and 5; what is left is a batch of 13, or of two images, fewer than
# processes, or of one, which is left out.
AUGMENTED = AugmentationSettings(
    random_resized_crop={"size": [16, 16], "scale": [0.5, 1.0], "ratio": [0.75, 1.33]},
    random_crop={"padding": 1},
    flip=True,
)
ADAM = AdamSettings(epochs=3, batch_size=16, lr=1e-3, checkpoint="last")
CASES = {
    "uneven": (45, 24, {"settings": under(checkpoint="best_val"), "augmentation": AUGMENTED}),
    "fewer images than processes": (34, 2, {"settings": under(schedule="one_cycle"), "augmentation": AUGMENTED}),
    "adam, one image left out": (33, 24, {"settings": ADAM}),
}

PROGRAM = """
import json, sys
from pathlib import Path
from jaxtyping import install_import_hook
install_import_hook("hsfm", "beartype.beartype")
import torch
import torch.distributed as dist
sys.path.insert(0, {tests!r})
from torch import nn
from tests.models.test_distributed import CASES, SyncedOnCPU, refusals, statistics_are_those_of_the_whole_batch, trained
from hsfm.core.files import write_safetensors

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, folder = dist.get_rank(), Path(sys.argv[1])
for layer, shape in ((nn.BatchNorm1d(5), (7, 5)), (nn.BatchNorm2d(5), (7, 5, 3, 2)),
                     (nn.BatchNorm2d(5, momentum=None, affine=False), (7, 5, 3, 2)),
                     (nn.BatchNorm1d(5, track_running_stats=False), (7, 5, 4))):
    statistics_are_those_of_the_whole_batch(layer, shape)
for name in CASES:
    if rank == 0:
        (folder / name).mkdir()
    dist.barrier()
    network, history = trained(name, folder / name, rank)
    write_safetensors(folder / name / f"{{rank}}.safetensors", network.state_dict(), {{"history": history.to_json()}})
    assert not [module for module in network.modules() if isinstance(module, SyncedOnCPU)]
if rank == 0:
    (folder / "refused").mkdir()
dist.barrier()
refusals(folder / "refused")
dist.destroy_process_group()
"""


def trained(name: str, folder: Path, rank: int = 0) -> tuple[nn.Module, pd.DataFrame]:
    n, n_validation, changes = CASES[name]
    (folder / str(rank)).mkdir()
    data = bright_and_dark(folder / str(rank), n, 0), bright_and_dark(folder / str(rank), n_validation, 1)
    # in double precision: in single, rounding grows a hundredfold from epoch to epoch, and would hide small mistakes
    network = build_network("small_resnet", 2).double()
    network.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return network, learn(network, *data, **changes)


def statistics_are_those_of_the_whole_batch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Of a batch of which each process holds a part: outputs, gradients, running statistics, in training and after."""
    processes = Processes.here()
    generator = torch.Generator().manual_seed(0)
    holder = nn.Sequential(type(layer)(5, momentum=layer.momentum, affine=layer.affine,
                                       track_running_stats=layer.track_running_stats))  # fmt: skip
    with processes.together(holder, holder, Compute(torch.device("cpu"))) if layer.affine else _replaced(holder):
        synced = holder[0]
        assert isinstance(synced, SyncedOnCPU)
        for mean in (3.0, 300.0):  # large against the deviation of one
            whole = (torch.randn(shape, generator=generator) + mean).requires_grad_()
            direction = torch.randn(shape, generator=generator)
            rows = processes.part(len(whole))
            mine = whole.detach()[rows].requires_grad_()
            expected, found = layer(whole), synced(mine)
            (expected * direction).sum().backward()
            (found * direction[rows]).sum().backward()
            close = {"rtol": 1e-4, "atol": 1e-4 if mean > 100 else 1e-5}
            torch.testing.assert_close(found, expected[rows], **close)
            torch.testing.assert_close(mine.grad, whole.grad[rows], **close)
            for theirs, ours in zip(layer.parameters(), synced.parameters(), strict=True):
                (total,) = zip(*[processes.totals(value) for value in ours.grad], strict=True)
                torch.testing.assert_close(torch.stack(total).float(), theirs.grad, rtol=1e-3, atol=1e-3)
                theirs.grad = ours.grad = None
        for theirs, ours in zip(layer.buffers(), synced.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        layer.eval(), holder.eval()
        torch.testing.assert_close(holder(whole), layer(whole), rtol=1e-4, atol=1e-4)


def _replaced(holder: nn.Module):
    """Without DistributedDataParallel, which refuses a network without parameters."""
    from contextlib import nullcontext

    from hsfm.models.distributed import _synchronize

    _synchronize(holder, SyncedOnCPU)
    return nullcontext()


def refusals(folder: Path) -> None:
    rank = Processes.here().rank
    (folder / str(rank)).mkdir()
    data = bright_and_dark(folder / str(rank), 16, 0), bright_and_dark(folder / str(rank), 8, 1)

    class Mine(nn.BatchNorm2d):
        pass

    def network(change=lambda network: None):
        built = build_network("small_resnet", 2)
        change(built)
        return built

    compiled = Compute.on("cpu", compile=True)
    for built, changes, message in (
        (
            network(),
            {"auxiliary": [AuxiliaryData("few", data[1], 1.0)]},
            "auxiliary: 1 sets of images, which 3 processes cannot",
        ),
        (network(), {"compute": compiled}, "compile: not on several GPUs; set it to false, or training_gpus to 1"),
        (network(lambda n: setattr(n.body, "bn1", Mine(16))), {}, "training_gpus: the layer bn1 is a Mine, whose"),
        (network(), {"settings": under(lr=1e30, schedule="constant", epochs=2)}, "the training loss is nan in epoch 2"),
    ):
        with pytest.raises(ValueError, match=message):
            learn(built, *data, **{"settings": under(epochs=1), **changes})


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The results of three processes for all of the above."""
    folder = tmp_path_factory.mktemp("shared")
    program = folder / "program.py"
    program.write_text(PROGRAM.format(tests=str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "--log-dir",
         folder / "logs", program, folder],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_several_processes_train_as_one_does(shared, tmp_path, name):
    network, expected = trained(name, tmp_path)
    results = [read_safetensors(shared / name / f"{rank}.safetensors") for rank in range(3)]
    histories = [json.loads(metadata["history"]) for _, metadata in results]
    assert histories[0] == histories[1] == histories[2]
    found = pd.DataFrame(histories[0]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6, atol=1e-7)
    state = network.state_dict()
    for tensors, _ in results:
        assert list(tensors) == sorted(state)
        for key, value in state.items():
            torch.testing.assert_close(tensors[key], value, rtol=1e-6, atol=1e-7)
            assert torch.equal(tensors[key], results[0][0][key]), "the processes end with one network"


def test_parts_cover_everything_once():
    for count, n, size in ((3, 45, 16), (4, 50, 16), (4, 7, 4), (2, 2, 16)):
        order = torch.arange(n)
        shares = [Processes(rank, count).share(n, size) for rank in range(count)]
        for step, batch in enumerate(order.split(size)):
            parts = [order[share.rows].split(share.sizes)[step] for share in shares]
            steps = [share.steps[step] for share in shares]
            if len(batch) < count:
                assert all(torch.equal(part, batch) for part in parts)
                assert [share.counts(step) for share in shares] == [True] + [False] * (count - 1)
            else:
                assert torch.equal(torch.cat(parts), batch)
                assert all(len(part) for part in parts)
            # the mean over processes of the scaled means is the mean of the batch
            means = [part.double().mean() * step.scale for part, step in zip(parts, steps, strict=True)]
            torch.testing.assert_close(torch.stack(means).mean(), batch.double().mean())
        rows = [torch.arange(n)[Processes(rank, count).part(n)] for rank in range(count)]
        assert torch.equal(torch.cat(rows), order)

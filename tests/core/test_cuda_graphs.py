import pytest
import torch

from hsfm.core.cuda_graphs import repeat
from hsfm.core.device import choose_device
from hsfm.core.gpus import accelerator_present


def test_a_repeated_step_is_called_that_often():
    calls = []
    repeat(lambda: calls.append("step"), 3, torch.device("cpu"), lambda: calls.append("after"))
    assert calls == ["step", "after"] * 3


@pytest.mark.skipif(not accelerator_present(), reason="needs a CUDA device")
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_replayed_step_does_what_it_did(times):
    device = choose_device("cuda")
    x = torch.ones(4, 4, device=device)
    repeat(lambda: x.copy_(x @ x / 2), times, device)
    expected = torch.ones(4, 4)
    for _ in range(times):
        expected = expected @ expected / 2
    torch.testing.assert_close(x.cpu(), expected)

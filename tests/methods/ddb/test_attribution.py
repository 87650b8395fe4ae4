import pytest
import torch
from torch import nn

from hsfm.core.device import Compute
from hsfm.methods.ddb.attribution import integrated_gradients, share_inside
from hsfm.models.backbone import Network, build_network

CPU = Compute(torch.device("cpu"))


class Pixels(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, side: int):
        super().__init__()
        self.fc = nn.Linear(3 * side * side, 2)

    def forward(self, images):
        return self.fc(images.flatten(1))


def linear(side: int) -> Network:
    torch.manual_seed(0)
    return Network(Pixels(side), "fc", 2).eval()


def pair(n: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, n, 3, side, side, generator=torch.Generator().manual_seed(1)).unbind()


def test_of_a_linear_network_they_are_the_difference_times_the_weight():
    network, (shown, baseline) = linear(8), pair(3, 8)
    target = torch.tensor([0, 1, 1])
    found = integrated_gradients(network, shown, baseline, target, steps=5, compute=CPU)
    expected = (shown - baseline) * network.fc.weight[target].view(3, 3, 8, 8)
    torch.testing.assert_close(found, expected)


def test_they_add_up_to_the_difference_of_the_logits(monkeypatch):
    """Completeness; and several images at once are as each alone."""
    network, (shown, baseline) = build_network("small_resnet", 3, seed=0).eval(), pair(5, 32)
    target = torch.tensor([0, 1, 2, 0, 1])
    monkeypatch.setattr("hsfm.core.device.PIXELS_AT_ONCE", 2 * 32 * 32)
    found = integrated_gradients(network, shown, baseline, target, steps=60, compute=CPU)
    with torch.no_grad():
        difference = (network(shown) - network(baseline)).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2, 3)), difference, rtol=0.02, atol=0.02)
    alone = integrated_gradients(network, shown[3:4], baseline[3:4], target[3:4], steps=60, compute=CPU)
    torch.testing.assert_close(found[3:4], alone, rtol=1e-3, atol=1e-5)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_share_inside_a_mask():
    attribution = torch.zeros(4, 3, 2, 2)
    attribution[0, 0, 0, 0], attribution[0, 1, 1, 1] = 3.0, -1.0
    attribution[1, :, 0, 1] = torch.tensor([1.0, -1.0, 0.0])
    attribution[2, 2, 1, 0] = -2.0
    mask = torch.tensor([[True, False], [False, False]]).expand(4, 2, 2)
    assert share_inside(attribution, mask).tolist() == pytest.approx([0.75, 0.0, 0.0, 0.0])
    assert share_inside(attribution, ~mask).tolist() == pytest.approx([0.25, 1.0, 1.0, 0.0])

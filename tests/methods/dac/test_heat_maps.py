import numpy as np
import pytest
import torch
from pytorch_grad_cam import XGradCAM
from torch import nn

from hsfm.core.device import Compute
from hsfm.methods.dac.heat_maps import heat_maps
from hsfm.models.backbone import Network, build_network

CPU = Compute(torch.device("cpu"))


def images(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "side"), [("small_resnet", 64), ("resnet18", 96)])
def test_heat_maps_are_grad_cams_own_at_the_last_block(name, side):
    network = build_network(name, 3, seed=1).train()
    with torch.no_grad():
        for seed in range(5):  # or BatchNorm would leave maps that are nearly the same everywhere
            network(images(8, side, seed))
    shown = images(5, side, seed=9)
    before = {name: parameter.requires_grad for name, parameter in network.eval().named_parameters()}
    ours = torch.cat([heat_maps(network, part, CPU) for part in (shown[:2], shown[2:])])
    with XGradCAM(network, [network.body.layer4[-1]]) as cam:
        theirs = cam(shown, targets=None)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 0.1
    assert before == {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("small_resnet", 64, 32),
        ("mobilenet_v2", 64, 64),
        ("swin_t", 64, 64),
        ("vit_b_32", 224, 224),
        ("timm:swin_tiny_patch4_window7_224", 224, 224),
        ("timm:vit_tiny_patch16_224", 224, 224),
    ],
)
def test_every_kind_of_backbone_has_maps(name, height, width):
    shown = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    maps = heat_maps(build_network(name, 2).eval(), shown, CPU)
    assert maps.shape == (2, height, width)
    assert maps.min() == 0
    assert maps.amax((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-2)


def test_a_layer_that_changes_its_input_in_place_does_not_change_the_map():
    """DenseNet's last ReLU works in place on the very tensor that the map is taken from."""

    class Tail(nn.Module):
        def __init__(self, inplace: bool):
            super().__init__()
            self.features = nn.Conv2d(3, 6, 3, padding=1)
            self.inplace = inplace
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(nn.functional.relu(self.features(x), inplace=self.inplace).mean((2, 3)))

    maps = []
    for inplace in (False, True):
        torch.manual_seed(0)
        maps.append(heat_maps(Network(Tail(inplace), "fc", 2).eval(), images(3, 8, seed=1), CPU))
    assert maps[0].max() > 0.5
    assert torch.equal(*maps)


def test_a_network_without_a_map_is_named():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 8 * 8, 2)

        def forward(self, x):
            return self.fc(x.flatten(1))

    with pytest.raises(ValueError, match="no feature map of Flat is known"):
        heat_maps(Network(Flat(), "fc", 2), images(1, 8), CPU)
    with pytest.raises(ValueError, match="images of 16 x 16 pixels have a feature map of one place"):
        heat_maps(build_network("resnet18", 2).eval(), images(1, 16), CPU)

import numpy as np
import pytest
import torch
from pytorch_grad_cam import XGradCAM
from torch import nn

from hsfm.core.device import Compute
from hsfm.methods.dac.heat_maps import heat_maps, last_feature_map
from hsfm.models.backbone import Network, build_network

CPU = Compute(torch.device("cpu"))


def images(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def used(name: str, side: int, classes: int = 3) -> Network:
    """A network whose BatchNorm has seen images, or its maps would be nearly the same everywhere."""
    network = build_network(name, classes, seed=1)
    network.train()
    with torch.no_grad():
        for seed in range(5):
            network(images(8, side, seed))
    return network.eval()


@pytest.mark.parametrize(("name", "side"), [("small_resnet", 64), ("resnet18", 96)])
def test_heat_maps_are_grad_cams_own_at_the_last_block(name, side):
    network = used(name, side)
    shown = images(5, side, seed=9)
    with heat_maps(network, shown[:1], CPU) as heat:
        ours = torch.cat([heat(shown[:2]), heat(shown[2:])])
    with XGradCAM(network, [network.body.layer4[-1]]) as cam:
        theirs = cam(shown, targets=None)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)
    assert ours.shape == (5, side, side)
    assert ours.amax((1, 2)).min() > 0.99
    assert (ours[0] - ours[1]).abs().max() > 0.1


def test_xgradcam_by_its_formula():
    """Weights: the activations' shares of each channel, times the gradient; then what is positive, scaled, resized."""
    network = used("small_resnet", 64)
    shown = images(3, 64, seed=4)
    body = network.body
    activations = body.bn1(body.conv1(shown)).relu()
    for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
        activations = layer(activations)
    activations = activations.detach().requires_grad_()
    logits = network.fc(activations.mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), activations)
    weight = (gradient * activations).sum((2, 3)) / (activations.sum((2, 3)) + 1e-7)
    small = (weight[:, :, None, None] * activations).sum(1).relu().detach()
    small = small - small.amin((1, 2), keepdim=True)
    small = small / small.amax((1, 2), keepdim=True)
    expected = torch.nn.functional.interpolate(small[:, None], (64, 64), mode="bilinear")[:, 0]
    expected = (expected - expected.amin((1, 2), keepdim=True)) / expected.amax((1, 2), keepdim=True)
    with heat_maps(network, shown[:1], CPU) as heat:
        torch.testing.assert_close(heat(shown), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "side", "module", "layout", "size"),
    [
        ("small_resnet", 64, "body.layer4", "channels_first", (4, 4)),
        ("resnet50", 64, "body.layer4", "channels_first", (2, 2)),
        ("mobilenet_v2", 64, "body.features", "channels_first", (2, 2)),
        ("densenet121", 64, "body.features", "channels_first", (2, 2)),
        ("swin_t", 64, "body.permute", "channels_first", (2, 2)),
        ("timm:swin_tiny_patch4_window7_224", 224, "body.norm", "channels_last", (7, 7)),
        ("timm:vit_tiny_patch16_224", 224, "body.blocks.11.norm1", "tokens", (14, 14)),
        # attention as a product of matrices, whose output has the tokens on both sides
        ("timm:convit_tiny", 224, "body.blocks.11.norm1", "tokens", (14, 14)),
    ],
)
def test_the_last_map_of_every_kind_of_backbone(name, side, module, layout, size):
    network = build_network(name, 2)
    shown = images(2, side)
    found = last_feature_map(network, shown[:1])
    assert (found.name, found.layout, found.size) == (module, layout, size)
    assert network.training  # left as it was
    with heat_maps(network, shown[:1], CPU) as heat:
        maps = heat(shown)
    assert maps.shape == (2, side, side)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_images_that_shrink_to_one_place_are_mapped_before_that():
    """ResNet-50 at 32 pixels: layer4 has one place, and the relu of its first block is called three times."""
    assert last_feature_map(build_network("resnet50", 2), images(1, 32)).size == (2, 2)


def test_a_map_that_is_not_square():
    network = build_network("small_resnet", 2)
    shown = torch.randn(2, 3, 64, 32)
    assert last_feature_map(network, shown[:1]).size == (4, 2)
    with heat_maps(network, shown[:1], CPU) as heat:
        assert heat(shown).shape == (2, 64, 32)


def test_nothing_is_left_on_the_network():
    network = build_network("small_resnet", 2)
    network.body.conv1.weight.requires_grad_(False)
    with heat_maps(network, images(1, 64), CPU) as heat:
        heat(images(2, 64))
    assert not any(module._forward_hooks for module in network.modules())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["body.conv1.weight"]
    with pytest.raises(IndexError, match="mine"), heat_maps(network, images(1, 64), CPU):
        raise IndexError("mine")
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_that_changes_its_input_in_place_does_not_change_the_map():
    """DenseNet's last ReLU works in place on the very tensor that the map is taken from."""

    class Tail(nn.Module):
        def __init__(self, inplace: bool):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.relu = nn.ReLU(inplace)
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(torch.nn.functional.relu(self.conv(x), inplace=self.relu.inplace).mean((2, 3)))

    torch.manual_seed(0)
    state = Tail(False).state_dict()
    maps = []
    for inplace in (False, True):
        body = Tail(inplace)
        body.load_state_dict(state)
        network = Network(body, "fc", 2)
        network.fc.load_state_dict({key.removeprefix("fc."): value for key, value in state.items() if "fc." in key})
        with heat_maps(network.eval(), images(1, 8), CPU) as heat:
            maps.append(heat(images(3, 8, seed=1)))
    assert maps[0].max() > 0.5
    assert torch.equal(*maps)


def test_a_network_without_a_map_is_named():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3 * 8 * 8, 2)

        def forward(self, x):
            return self.fc(x.flatten(1))

    with pytest.raises(ValueError, match="no feature map of more than one place for images of 8 x 8"):
        last_feature_map(Network(Flat(), "fc", 2), images(1, 8))

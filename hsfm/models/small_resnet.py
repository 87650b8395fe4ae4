"""A small residual network (He et al., CVPR 2016) for the built-in images.

Written out, since torchvision, whose block is the same, takes a second to import, which a dozen jobs would pay.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; names of the parts are torchvision's."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if stride > 1:
            shortcut = nn.Conv2d(before, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k2 h2 w2"]:
        change = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        change += self.downsample(x)
        return self.relu(change)


def small_resnet() -> nn.Module:
    """A ResNet for 64 x 64 images: 3 x 3 stem of stride 2, four basic blocks of 16 to 128 channels."""
    layers = {
        "conv1": nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(),
        "layer1": nn.Sequential(_BasicBlock(16, 16, 1)),
        "layer2": nn.Sequential(_BasicBlock(16, 32, 2)),
        "layer3": nn.Sequential(_BasicBlock(32, 64, 2)),
        "layer4": nn.Sequential(_BasicBlock(64, 128, 2)),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(128, 1000),
    }
    body = nn.Sequential(OrderedDict(layers))
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body

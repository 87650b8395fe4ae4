"""Networks that turn images into features, and their checkpoints.

A checkpoint is a plain state dict of the whole network in safetensors: for a torchvision architecture the very keys
that torchvision's own model has, the ERM head as `fc.weight` and `fc.bias`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from hsfm.files import read_safetensors, write_safetensors

NAMES = ("small_resnet", "resnet18", "resnet34", "resnet50")


class SmallResNet(nn.Module):
    """A ResNet for 64 x 64 images: 3 x 3 stem of stride 2, four basic blocks of 16 to 128 channels, d = 128."""

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for number, width in enumerate(widths, start=1):
            stride = 1 if number == 1 else 2
            setattr(self, f"layer{number}", nn.Sequential(_block(before, width, stride)))
            before = width
        self.fc = nn.Linear(before, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        x = self.bn1(self.conv1(images)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean(dim=(-2, -1)))


def _block(before: int, width: int, stride: int) -> BasicBlock:
    same = before == width and stride == 1
    shortcut = None if same else nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return BasicBlock(before, width, stride, shortcut)


class Network(nn.Module):
    """A backbone and a linear head; `features` is what the head sees."""

    def __init__(self, body: nn.Module, n_classes: int):
        super().__init__()
        self.n_features = body.fc.in_features
        self.fc = nn.Linear(self.n_features, n_classes)
        body.fc = nn.Identity()
        self.body = body

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Pooled features."""
        return self.body(images)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Logits."""
        return self.fc(self.features(images))


def build_network(name: str, n_classes: int, *, pretrained: bool = False, seed: int = 0) -> Network:
    """A network called `name` with a fresh head of `n_classes` rows, initialised from `seed`.

    pretrained: start the backbone from ImageNet-1k weights (torchvision's V1), which torchvision downloads once.
    Raises ValueError for an unknown name, and for `pretrained` where no weights exist.
    """
    if name not in NAMES:
        raise ValueError(f"backbone: unknown name {name!r}; allowed are {', '.join(NAMES)}")
    if pretrained and name == "small_resnet":
        raise ValueError("backbone: small_resnet has no pretrained weights; set pretrained: false or another name")
    # torch's initialisers draw from the global generator only; fork_rng hands it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "small_resnet":
            body = SmallResNet()
        else:
            body = _pretrained(name) if pretrained else torchvision.models.get_model(name, weights=None)
        return Network(body, n_classes)


def _pretrained(name: str) -> nn.Module:
    """torchvision's model with its ImageNet-1k (V1) weights; ValueError where they cannot be had."""
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return torchvision.models.get_model(name, weights=weights)
    except OSError as error:  # no network, no space, no permission
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise ValueError(
            f"backbone: cannot load the ImageNet weights of {name} ({error}); "
            f"without a network, put {weights.url} into {folder}"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    network: Network
    name: str  # architecture
    class_names: tuple[str, ...]
    metadata: dict[str, str]


def write_checkpoint(
    path: str | Path, network: Network, *, name: str, class_names: Sequence[str], metadata: Mapping[str, str]
) -> None:
    """Write a network in torchvision's own keys."""
    state = {**network.body.state_dict(), **{f"fc.{key}": value for key, value in network.fc.state_dict().items()}}
    described = {"backbone": name, "classes": json.dumps(class_names), **metadata}
    write_safetensors(path, state, described)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote. Raises ValueError naming a missing, extra or misshapen tensor."""
    state, metadata = read_safetensors(path)
    for key in ("backbone", "classes"):
        if key not in metadata:
            raise ValueError(f"{path}: metadata lacks {key!r}")
    class_names = tuple(json.loads(metadata["classes"]))
    network = build_network(metadata["backbone"], len(class_names))
    expected = {**network.body.state_dict(), **{f"fc.{key}": value for key, value in network.fc.state_dict().items()}}
    for key in sorted(expected.keys() ^ state.keys()):
        raise ValueError(f"{path}: tensor {key!r} is {'missing' if key in expected else 'not part of the network'}")
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise ValueError(f"{path}: tensor {key!r} is {list(state[key].shape)}, expected {list(tensor.shape)}")
    network.body.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    network.fc.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    return Checkpoint(network=network, name=metadata["backbone"], class_names=class_names, metadata=metadata)

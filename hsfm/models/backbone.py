"""Networks that turn images into features, and their checkpoints.

A checkpoint is a plain state dict of the whole network in safetensors, in the very keys that the architecture's own
model has with as many classes, the head under the architecture's own name (`fc`, `classifier.1`, `heads.head`, ...);
where training kept them, the tensor `early_logits` lies beside it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from hsfm.core.files import read_safetensors, require, sha256, write_safetensors
from hsfm.core.settings import FrozenSettings
from hsfm.data.table import ImageTable
from hsfm.data.transforms import TransformSettings
from hsfm.models import clip
from hsfm.models.small_resnet import small_resnet
from hsfm.models.weights import EARLY_LOGITS, read_weights

TIMM = "timm:"


class BackboneSettings(FrozenSettings):
    """The network whose pooled output are the features; its last layer has to be linear."""

    name: str = Field(
        pattern=r"^((timm:)?[A-Za-z0-9_.]+|open_clip:.+)$",
        description="Architecture: small_resnet, any of torchvision's classification models, timm:NAME, or CLIP's "
        "image tower as open_clip:NAME/TAG or open_clip:FOLDER.",
    )
    pretrained: bool = Field(
        description="Start from the library's ImageNet weights (torchvision's V1), which it downloads once."
    )
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        description="A file of pretrained weights instead, or package:NAME for those that a pip package carries; null "
        "for none."
    )
    train: bool = Field(description="Train by ERM; false keeps the backbone as it is and fits a head on its features.")
    checkpoint: Annotated[str, Field(min_length=1)] | None = Field(
        description="Your own ERM network, with its head; nothing is trained then. null for none."
    )

    @model_validator(mode="after")
    def _check_origin(self) -> "BackboneSettings":
        if self.pretrained and self.name == "small_resnet":
            raise ValueError("small_resnet has no pretrained weights")
        chosen = [key for key in ("pretrained", "weights", "checkpoint") if getattr(self, key)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude one another; set all but one to false or null")
        if not self.train and not chosen:
            raise ValueError("train is false, but there are neither pretrained weights nor a checkpoint")
        return self


class Network(nn.Module):
    """A backbone and a linear head, `fc`, of its features.

    body: the architecture's own model, whose linear layer `head_name` is taken out for a fresh one of `n_classes` rows.
    """

    def __init__(self, body: nn.Module, head_name: str, n_classes: int):
        super().__init__()
        self.head_name = head_name
        self.n_features = body.get_submodule(head_name).in_features
        self.fc = nn.Linear(self.n_features, n_classes)
        body.set_submodule(head_name, nn.Identity())
        self.body = body

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Pooled features."""
        return self.body(images)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """Logits."""
        return self.fc(self.features(images))

    @contextmanager
    def _whole(self) -> Iterator[nn.Module]:
        """The architecture's own model, its head back in its place."""
        self.body.set_submodule(self.head_name, self.fc)
        try:
            yield self.body
        finally:
            self.body.set_submodule(self.head_name, nn.Identity())

    def own_state(self) -> dict[str, Tensor]:
        """The whole network's state dict in the architecture's own keys and order."""
        with self._whole() as model:
            return dict(model.state_dict())

    def load_own_state(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        """Load such a state; ValueError naming `source`, its file, and tensors that do not fit."""
        try:
            with self._whole() as model:
                model.load_state_dict(state)
        except RuntimeError as error:  # a headline, then a line for each fault, perhaps with hundreds of names
            faults = [shorten(line, 200) for line in str(error).splitlines()[1:]]
            raise ValueError(f"{source}: does not fit the network. {' '.join(faults)}") from error


def build_network(
    name: str, n_classes: int, *, pretrained: bool = False, seed: int = 0, weights: str | Path | None = None
) -> Network:
    """A network called `name` with a fresh head of `n_classes` rows, initialized from `seed`.

    pretrained: start the backbone from ImageNet-1k weights (torchvision's V1; timm's default for the name), which are
    downloaded once. weights: start it from a file instead, or from an installed package (`package:NAME`), as
    `read_weights` reads them; a head in there is left out. Raises ValueError for an unknown name, a model without a
    linear head, pretrained weights that there are none of or beside `weights`, and naming a tensor of `weights` that
    does not fit.
    """
    if pretrained and (name == "small_resnet" or weights is not None):
        raise ValueError(f"{name} with pretrained=True: expected a network with such weights, and no `weights`")
    # torch's initializers draw from the global generator only; fork_rng hands it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "small_resnet":
            body = small_resnet()
        elif name.startswith(TIMM):
            body = _timm(name.removeprefix(TIMM), n_classes, pretrained)
        elif name.startswith(clip.PREFIX):
            model = clip.load_model(name.removeprefix(clip.PREFIX), pretrained=pretrained)
            body = clip.ImageTower(model.visual, n_classes)
        else:
            body = _torchvision(name, pretrained)
        network = Network(body, find_head(body, name), n_classes)
    if weights is not None:
        fresh = network.own_state()
        head = {key: fresh[key] for key in fresh if key.startswith(f"{network.head_name}.")}
        network.load_own_state(read_weights(weights, list(fresh)) | head, weights)
    return network


def find_head(model: nn.Module, name: str) -> str:
    """Path of the linear layer whose output are the logits of `model`; ValueError where anything else gives these.

    timm's models tell it; in torchvision's it is the last linear layer. name: of the model.
    """
    linear = {module: path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = model.get_classifier() if name.startswith(TIMM) else next(reversed(linear), None)
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(f"backbone: the head of {name} is {head}, expected one linear layer with a bias")
    return linear[head]


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = " or ".join(get_close_matches(name, ["small_resnet", *known])) or "timm:NAME or open_clip:NAME"
        raise ValueError(f"backbone: torchvision has no classification model {name!r}; did you mean {near}?")
    if name.startswith("mnasnet"):
        # it insists on a version number that safetensors cannot carry
        raise ValueError(f"backbone: {name} of torchvision loads no plain state dict; timm:mnasnet_100 does")
    inception = name in ("googlenet", "inception_v3")
    options = {"init_weights": False} if inception else {}  # its slow initializer, which is going away
    weights = models.get_model_weights(name).__members__.get("IMAGENET1K_V1") if pretrained else None
    if pretrained and weights is None:
        raise ValueError(f"backbone: torchvision has no IMAGENET1K_V1 weights of {name}; set pretrained: false")
    try:
        model = models.get_model(name, weights=weights, **options)
    except OSError as error:  # no network, no space, no permission
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise ValueError(
            f"backbone: cannot load the ImageNet weights of {name} ({error}); "
            f"without a network, put {weights.url} into {folder}"
        ) from error
    if inception:
        # Logits of auxiliary heads would come out in training, and pretrained models would change their input's scale
        # behind the transform's back. A file's tensors of auxiliary heads are ignored.
        model.aux_logits = model.transform_input = False
        model.aux1 = model.aux2 = model.AuxLogits = None
    return model


def _timm(name: str, n_classes: int, pretrained: bool) -> nn.Module:
    try:
        import timm  # optional, and slow to import
    except ImportError as error:
        raise ValueError(f"backbone: {TIMM}{name} needs the package timm; pip install timm") from error
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=n_classes)
    except (OSError, RuntimeError) as error:  # no network, no weights, an unknown name or tag after the dot
        way_out = "; without a network, set pretrained: false and weights: FILE" if pretrained else ""
        raise ValueError(f"backbone: cannot make {TIMM}{name} ({error}){way_out}") from error


@dataclass(frozen=True)
class Checkpoint:
    network: Network
    name: str  # architecture
    class_names: tuple[str, ...]
    metadata: dict[str, str]
    early_logits: Float[Tensor, "n c"] | None = None  # of the validation images in table order, after an early epoch


def describe(table: ImageTable, run: int | str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a network for the images of a table; settings: plain dicts, of the transform among others."""
    sizes = table.rows[["height", "width"]].drop_duplicates().to_numpy(int).tolist()
    return {
        "dataset": table.dataset,
        "run": str(run),
        "transform": json.dumps(settings["transform"]),
        "image_size": json.dumps(sizes[0] if len(sizes) == 1 else None),
        "settings": json.dumps(settings),
    }


def write_checkpoint(path: str | Path, trained: Checkpoint) -> None:
    """Write a network in its architecture's own keys, and its early logits where it has some."""
    early = {} if trained.early_logits is None else {EARLY_LOGITS: trained.early_logits}
    described = {"backbone": trained.name, "classes": json.dumps(trained.class_names), **trained.metadata}
    write_safetensors(path, trained.network.own_state() | early, described)


def write_retrained(path: str | Path, network: Network, start: Checkpoint, settings: Mapping[str, Any]) -> str:
    """Write a network that was trained further from `start`, with the settings of that; the file's SHA-256."""
    metadata = {**start.metadata, "settings": json.dumps(settings)}
    write_checkpoint(path, replace(start, network=network, metadata=metadata, early_logits=None))
    return sha256(path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote. Raises ValueError naming a missing, extra or misshapen tensor."""
    state, metadata = read_safetensors(path)
    require(metadata, ("backbone", "classes"), path)
    name, class_names = metadata["backbone"], tuple(json.loads(metadata["classes"]))
    network, early_logits = build_network(name, len(class_names)), state.pop(EARLY_LOGITS, None)
    network.load_own_state(state, path)
    return Checkpoint(network, name, class_names, metadata, early_logits)


def read_foreign(path: str | Path, name: str, n_classes: int) -> Network:
    """A user's trained network called `name` with its head, from any file that `read_weights` reads.

    A head of one logit z tells two classes apart and becomes the logits 0 and z. Raises ValueError for what does not
    fit.
    """
    network = build_network(name, n_classes)
    state = read_weights(path, list(network.own_state()))
    weight, bias = (f"{network.head_name}.{part}" for part in ("weight", "bias"))
    found = state[weight].shape[0] if weight in state and state[weight].ndim else n_classes
    if found == 1 and n_classes == 2:
        for key in {weight, bias} & state.keys():
            state[key] = torch.cat([torch.zeros_like(state[key]), state[key]])
    elif found != n_classes:
        raise ValueError(f"{path}: the head {weight!r} is for {found} classes, but the images have {n_classes}")
    network.load_own_state(state, path)
    return network


def take_network(settings: BackboneSettings, n_classes: int, transform: TransformSettings) -> Network:
    """The network that the settings name, for use without training: a user's own, or one with a fresh head.

    Raises ValueError for what does not fit, CLIP's network under a transform other than its own among others.
    """
    if settings.checkpoint is not None:
        network = read_foreign(settings.checkpoint, settings.name, n_classes)
    else:
        network = build_network(settings.name, n_classes, pretrained=settings.pretrained, weights=settings.weights)
    if settings.name.startswith(clip.PREFIX):
        clip.check_transform(network.body.visual, transform)
    return network

"""Training settings for fine-tuning pretrained networks, by the family of the architecture.

They are where a user starts who has no recipe of his own: peak rate for batches of 32, on a one-cycle schedule.
"""

import re
from dataclasses import dataclass

from hsfm.models.backbone import BackboneSettings
from hsfm.models.erm import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    optimizer: str
    lr: float
    weight_decay: float
    source: str
    epochs: int = 10


FAMILIES = {  # the first whose pattern is found in the name; what none is found in is a network of the last one
    "attention and ConvNeXt": (
        r"vit|deit|swin|beit|eva|cait|xcit|mixer|convnext|open_clip",
        Recipe("adamw", 3e-5, 0.05, "Liu et al., Swin (2e-5) and ConvNeXt (5e-5); not measured here"),
    ),
    "mobile": (
        r"efficientnet|mobilenet|mnasnet|shufflenet|lite|ghostnet",
        Recipe("sgd", 0.01, 1e-4, "Kornblith et al., CVPR 2019; not measured here"),
    ),
    "without BatchNorm": (
        r"alexnet|squeezenet|vgg\d+$",
        Recipe("sgd", 0.001, 5e-4, "Simonyan and Zisserman, VGG; not measured here"),
    ),
    "residual": (r"", Recipe("sgd", 0.001, 1e-4, "Sagawa et al., group DRO; DFR has the same rate")),
}
FILLED = ("optimizer", "lr", "weight_decay", "epochs")  # settings that may be left to the family


def family(name: str) -> str:
    """The family of the architecture that a backbone's name says."""
    return next(family for family, (pattern, _) in FAMILIES.items() if re.search(pattern, name.lower()))


def filled(settings: TrainingSettings, backbone: BackboneSettings) -> TrainingSettings:
    """The settings with those of the backbone's family where they are null.

    Raises ValueError where one is null and the backbone has no pretrained weights.
    """
    left = [name for name in FILLED if getattr(settings, name) is None]
    if not left:
        return settings
    if not (backbone.pretrained or backbone.weights is not None):
        raise ValueError(f"{left[0]} is null, which is for pretrained weights, but backbone has none; give a value")
    _, recipe = FAMILIES[family(backbone.name)]
    return TrainingSettings(**settings.model_dump() | {name: getattr(recipe, name) for name in left})

import pytest
import torch

from hsfm.models.backbone import BackboneSettings, build_network
from hsfm.models.erm import TrainingSettings, _start
from hsfm.models.fine_tuning import FAMILIES, FILLED, family, filled
from tests.models.test_erm import CPU, SETTINGS

LEFT = {**SETTINGS, **dict.fromkeys(FILLED)}


def backbone(name: str, **changes) -> BackboneSettings:
    plain = {"pretrained": True, "weights": None, "train": True, "checkpoint": None}
    return BackboneSettings(name=name, **plain | changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("resnet50", "residual"), ("wide_resnet50_2", "residual"), ("densenet121", "residual")),
        *(("timm:tf_efficientnet_lite0", "mobile"), ("mobilenet_v3_small", "mobile")),
        *(("convnext_tiny", "attention and ConvNeXt"), ("timm:vit_small_patch16_224", "attention and ConvNeXt")),
        *(("swin_t", "attention and ConvNeXt"), ("open_clip:ViT-B-32/openai", "attention and ConvNeXt")),
        *(("vgg16", "without BatchNorm"), ("vgg16_bn", "residual"), ("alexnet", "without BatchNorm")),
    ],
)
def test_architectures_have_their_families(name, expected):
    assert family(name) == expected


def test_what_is_null_is_the_familys_and_the_rest_stays():
    settings = filled(TrainingSettings(**LEFT | {"epochs": 4}), backbone("convnext_tiny"))
    recipe = FAMILIES["attention and ConvNeXt"][1]
    assert (settings.optimizer, settings.lr, settings.weight_decay) == ("adamw", recipe.lr, recipe.weight_decay)
    assert (settings.epochs, settings.batch_size) == (4, 16)
    given = TrainingSettings(**SETTINGS)
    assert filled(given, backbone("small_resnet", pretrained=False)) is given


def test_a_network_from_scratch_has_no_defaults():
    with pytest.raises(ValueError, match="optimizer is null, which is for pretrained weights, but backbone has none"):
        filled(TrainingSettings(**LEFT), backbone("resnet18", pretrained=False))


def test_the_optimizer_is_the_one_that_is_named():
    """AdamW's decay is apart from the gradient; SGD has the momentum."""
    network = build_network("small_resnet", 2)
    decoupled = _start(network, TrainingSettings(**SETTINGS | {"optimizer": "adamw"}), 4, 0, CPU).optimizer
    assert type(decoupled) is torch.optim.AdamW
    assert decoupled.param_groups[0]["weight_decay"] == SETTINGS["weight_decay"]
    plain = _start(network, TrainingSettings(**SETTINGS), 4, 0, CPU).optimizer
    assert type(plain) is torch.optim.SGD
    assert plain.param_groups[0]["momentum"] == SETTINGS["momentum"]

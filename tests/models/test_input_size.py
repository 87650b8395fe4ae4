import pandas as pd
import pytest
import torch

from hsfm.data.table import ImageTable
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.models.backbone import build_network
from hsfm.models.input_size import check_input_size, check_takes

BOX = {"size": [64, 64], "scale": [0.5, 1], "ratio": [1, 1]}
CROP = {"random_resized_crop": BOX, "random_crop": None, "flip": False}
GRAY = {"mean": [0.5] * 3, "std": [0.5] * 3}


def table_of(*sizes: tuple[int, int]) -> ImageTable:
    return ImageTable(pd.DataFrame(sizes, columns=["height", "width"]), "toy", ("cat", "dog"), ())


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_b_32", (64, 64), r"64 x 64 pixels \(height x width\), which .* does not take \(.*\); it takes 224 x 224"),
        ("timm:vit_tiny_patch16_384", (224, 224), r"does not take \(.*384.*\); it takes 384 x 384"),
        ("inception_v3", (64, 64), r"does not take \(.*\); it takes 224 x 224"),  # 75 pixels at least
        ("resnet18", (3, 500), None),
    ],
)  # fmt: skip
def test_a_size_that_the_network_does_not_take_is_told_with_one_that_it_takes(name, size, message):
    network = build_network(name, 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    if message is None:
        check_takes(network, size, "transform")
    else:
        with pytest.raises(ValueError, match=f"^transform: gives .*{message}"):
            check_takes(network, size, "transform")
    assert network.training, "as it was"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_size_of_an_augmentation_and_images_of_several_sizes():
    network = build_network("timm:vit_tiny_patch16_224", 2)
    fits = TransformSettings(resize=[224, 224], **GRAY)
    check_input_size(network, table_of((30, 40), (50, 60)), fits)
    with pytest.raises(ValueError, match=r"^augmentation/random_resized_crop/size: gives 64 x 64 .*takes 224 x 224$"):
        check_input_size(network, table_of((30, 40)), fits, AugmentationSettings(**CROP))
    with pytest.raises(ValueError, match="images differ in size"):
        check_input_size(network, table_of((30, 40), (50, 60)), TransformSettings(resize=224, **GRAY))

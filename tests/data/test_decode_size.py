import math

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from hsfm.data.decode_size import decode_rule, resized, stored_size

SQUASH = {"resize": [256, 256], "crop": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
PLAIN = {**SQUASH, "resize": None, "crop": None}
CROP = {"size": [224, 224], "scale": [0.7, 1.0], "ratio": [3 / 4, 4 / 3]}
TRAIN = {"random_resized_crop": CROP, "random_crop": None, "flip": True}
FLIP = {"random_resized_crop": None, "random_crop": None, "flip": True}
SIZES = [(375, 500), (500, 375), (218, 178), (1000, 40), (300, 300), (2000, 3001)]


@pytest.mark.parametrize("size", [[40, 30], [37]])
@pytest.mark.parametrize(("height", "width"), [(50, 80), (80, 50), (37, 37), (91, 40)])
def test_resizing_goes_as_torchvisions(height, width, size):
    expected = F.resize(torch.zeros(3, height, width), size).shape[-2:]
    assert resized(height, width, size) == tuple(expected)


def test_rules():
    assert decode_rule("original", SQUASH, TRAIN) == decode_rule("needed", PLAIN, FLIP) == {}
    assert decode_rule("needed", SQUASH, FLIP) == decode_rule("needed", SQUASH) == {"exactly": [256, 256]}
    assert decode_rule("needed", SQUASH, TRAIN) == {"resize": [256, 256], "crop": CROP}


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_training_loses_nothing(height, width):
    """Not below the resize, no box enlarged that would not be anyway, the aspect kept, nothing made larger."""
    h, w = stored_size(height, width, decode_rule("needed", SQUASH, TRAIN))
    assert h <= height
    assert w <= width
    assert h >= min(256, height)
    assert w >= min(256, width)
    assert abs(h / height - w / width) <= max(1 / height, 1 / width), "rounded up by less than a pixel"
    smallest = CROP["scale"][0] * h * w
    if (h, w) != (height, width):
        for ratio in CROP["ratio"]:
            assert math.sqrt(smallest / ratio) >= 224 - 1e-6
            assert math.sqrt(smallest * ratio) >= 224 - 1e-6


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_without_random_boxes_the_resize_itself_is_stored(height, width):
    for size in ([256, 256], [256]):
        rule = decode_rule("needed", {**SQUASH, "resize": size}, FLIP)
        h, w = stored_size(height, width, rule)
        target = resized(height, width, size)
        assert (h, w) == (target if target[0] <= height and target[1] <= width else (height, width))
        assert resized(h, w, size) == target, "what comes out does not change"


def test_original_is_as_it_was():
    assert stored_size(375, 500, {}) == (375, 500)
    assert stored_size(218, 178, decode_rule("needed", SQUASH, TRAIN)) == (218, 178), "CelebA at its own size"

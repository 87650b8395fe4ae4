import math

import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from hsfm.augment import augment, normalise, random_crop, random_flip, random_resized_crop, sample_box, transform

PLAIN = {"resize": None, "crop": None, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(0, 256, (40, 3, 12, 16), generator=generator(9), dtype=torch.uint8)


def test_normalise_is_torchvisions(images):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = F.normalize(F.to_dtype(images, torch.float32, scale=True), mean, std)
    torch.testing.assert_close(normalise(images, mean, std), expected)


def test_plain_transform_scales_to_minus_one_and_one(images):
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert transform(extremes, PLAIN).unique().tolist() == [-1.0, 1.0]


def test_resize_and_crop_are_torchvisions(images):
    settings = {**PLAIN, "resize": [10], "crop": [8, 8]}
    expected = F.center_crop(F.resize(images, [10], antialias=True), [8, 8])
    torch.testing.assert_close(transform(images, settings), normalise(expected, PLAIN["mean"], PLAIN["std"]))


def test_flip_mirrors_half_of_the_images(images):
    many = images.repeat(25, 1, 1, 1)
    flipped = random_flip(many, generator())
    same = (flipped == many).flatten(1).all(1)
    mirrored = (flipped == many.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_random_crop_is_a_window_of_the_padded_image(images):
    images = images.repeat(5, 1, 1, 1)  # 200 draws of 25 shifts
    cropped = random_crop(images, 2, generator())
    windows = torch.nn.functional.pad(images, [2] * 4).unfold(2, 12, 1).unfold(3, 16, 1)  # [b 3 5 5 12 16]
    found = (windows == cropped[:, :, None, None]).flatten(4).all(-1).all(1)  # [b 5 5]
    assert found.flatten(1).any(1).all()
    assert found.any(0).all(), "every shift occurs"


def test_random_resized_crop_equals_torchvisions_on_the_same_boxes(images):
    scale, ratio = (0.3, 1.0), (3 / 4, 4 / 3)
    ours = random_resized_crop(images, [8, 8], scale, ratio, generator(5))
    g = generator(5)
    for image, crop in zip(images, ours, strict=True):
        box = sample_box(12, 16, scale, ratio, g)
        assert torch.equal(crop, F.resized_crop(image, *box, size=[8, 8], antialias=True))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (20, 200)])
def test_boxes_follow_torchvisions_law(height, width):
    """Means and spreads of 2000 boxes agree with those of torchvision's own sampler within the sampling error."""
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 2000
    g = generator(1)
    ours = torch.tensor([sample_box(height, width, scale, ratio, g) for _ in range(n)]).double()
    theirs_of = RandomResizedCrop(8, scale, ratio)
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = [theirs_of.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn]).double()
    error = (ours.var(0) + theirs.var(0)).sqrt() / math.sqrt(n)
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error + 1e-9).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=0.2)


def test_augmentation_comes_from_its_generator_alone(images):
    settings = {
        "random_resized_crop": {"size": [8, 8], "scale": [0.5, 1.0], "ratio": [0.75, 1.33]},
        "random_crop": {"padding": 1},
        "flip": True,
    }
    first = augment(images, settings, generator(3))
    torch.manual_seed(12345)
    assert torch.equal(augment(images, settings, generator(3)), first)
    assert not torch.equal(augment(images, settings, generator(4)), first)
    nothing = {"random_resized_crop": None, "random_crop": None, "flip": False}
    assert torch.equal(augment(images, nothing, generator()), images)


def test_images_of_several_sizes_are_treated_one_by_one():
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=g) for h, w in ((20, 30), (24, 16))]
    settings = {"resize": [12, 12], "crop": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
    views = transform(images, settings)
    for image, view in zip(images, views, strict=True):
        assert torch.equal(transform(image[None], settings)[0], view)
    settings = {"random_resized_crop": {"size": [9, 7], "scale": [0.5, 1.0], "ratio": [0.7, 1.4]},
                "random_crop": None, "flip": True}  # fmt: skip
    first, again = (augment(images, settings, torch.Generator().manual_seed(1)) for _ in range(2))
    assert [tuple(view.shape) for view in first] == [(3, 9, 7)] * 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_images_that_stay_of_several_sizes_are_named():
    images = [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 9, dtype=torch.uint8)]
    settings = {"resize": None, "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ValueError, match=r"the images differ in size, \[8, 8\] and \[8, 9\].*; set resize to"):
        transform(images, settings)

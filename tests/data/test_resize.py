import pytest
import torch
from torchvision.transforms.v2 import functional as F

from hsfm.data.resize import resample, resize, weights


def image(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(10, 30), (64, 64), (20, 20), (7, 5)])
def test_one_image_is_resized_as_by_torchvision(size, mode):
    for images in (image(20, 20), image(20, 20).expand(4, 3, 20, 20)):
        expected = F.resize(images, list(size), F.InterpolationMode(mode), antialias=True)
        assert torch.equal(resize(images, *size, mode), expected)


BOXES = [(0, 0, 40, 60), (3, 5, 30, 20), (10, 0, 8, 60), (39, 59, 1, 1), (0, 20, 40, 7)]


@pytest.mark.parametrize(("mode", "levels"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("size", [(32, 24), (5, 80), (40, 60)])
def test_a_batch_is_within_few_gray_levels_of_torchvision_on_the_same_boxes(size, mode, levels):
    images = torch.stack([image(40, 60, seed) for seed in range(len(BOXES))])
    full = torch.tensor(size).expand(len(BOXES), 2)
    found = resample(images, torch.tensor(BOXES), full, torch.zeros_like(full), size, mode)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for one, box, cut in zip(images, BOXES, found, strict=True):
        expected = F.resized_crop(one, *box, list(size), F.InterpolationMode(mode), antialias=True)
        assert (expected.int() - cut.int()).abs().max() <= levels


def test_nothing_outside_the_box_is_seen():
    images = image(40, 60).expand(len(BOXES), 3, 40, 60).clone()
    before = [images[i, :, t : t + h, w0 : w0 + w].clone() for i, (t, w0, h, w) in enumerate(BOXES)]
    full = torch.tensor((16, 16)).expand(len(BOXES), 2)
    first = resample(images, torch.tensor(BOXES), full, torch.zeros_like(full), (16, 16))
    images.fill_(255)
    for i, (top, left, height, width) in enumerate(BOXES):
        images[i, :, top : top + height, left : left + width] = before[i]
    assert torch.equal(resample(images, torch.tensor(BOXES), full, torch.zeros_like(full), (16, 16)), first)


def test_a_window_is_a_part_of_the_whole():
    images = image(33, 47)[None]
    box, full = torch.tensor([[0, 0, 33, 47]]), torch.tensor([[20, 30]])
    whole = resample(images, box, full, torch.tensor([[0, 0]]), (20, 30))
    part = resample(images, box, full, torch.tensor([[4, 7]]), (10, 12))
    assert torch.equal(part, whole[:, :, 4:14, 7:19])
    beyond = resample(images, box, full, torch.tensor([[-2, -3]]), (24, 36))
    assert torch.equal(beyond, torch.nn.functional.pad(whole, [3, 3, 2, 2]))


def test_weights_sum_to_one_and_keep_straight_lines():
    """An image that grows linearly is resized to one that does, away from the edges."""
    weight = weights(50, torch.tensor([[10.0, 36.0]]), torch.tensor([12.0]), torch.tensor([0.0]), 12, "bilinear")[0]
    torch.testing.assert_close(weight.sum(1), torch.ones(12))
    assert (weight[:, :10] == 0).all()
    assert (weight[:, 46:] == 0).all()
    line = weight @ (torch.arange(50.0) + 0.5)
    torch.testing.assert_close(line[1:-1], 10 + (torch.arange(12.0) + 0.5)[1:-1] * 36 / 12)

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from hsfm.core.device import Compute
from hsfm.data import transforms
from hsfm.data.pixels import pack
from hsfm.data.transforms import (
    AugmentationSettings,
    TransformSettings,
    Views,
    apply,
    draw_views,
    hide_masks,
    normalize,
    prepare,
    sample_boxes,
    show_masks,
)

PLAIN = TransformSettings(resize=None, crop=None, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
NOTHING = AugmentationSettings(random_resized_crop=None, random_crop=None, flip=False)
SIZES = ((20, 30), (24, 16), (40, 40))


def changed(settings, **changes):
    return type(settings)(**{**settings.model_dump(), **changes})


BOX = {"size": [8, 10], "scale": [0.3, 1.0], "ratio": [3 / 4, 4 / 3]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": [123.675, 116.28, 103.53]}, "mean.0\n  Input should be less than or equal to 1"),
        ({"std": [58.395, 57.12, 57.375]}, "std.0\n  Input should be less than or equal to 1"),
        ({"mean": [-0.1, 0.5, 0.5]}, "mean.0\n  Input should be greater than or equal to 0"),
    ],
)
def test_mean_and_std_in_gray_levels_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        changed(PLAIN, **settings)


def test_one_number_is_the_shorter_side_and_no_crop_is_none():
    settings = TransformSettings(resize=32, mean=[0.5] * 3, std=[0.5] * 3)
    assert settings == changed(PLAIN, resize=[32], crop=None)


@pytest.mark.parametrize("change", [{"scale": [1.0, 0.3]}, {"ratio": [4 / 3, 3 / 4]}])
def test_a_range_that_falls_is_refused(change):
    with pytest.raises(ValueError, match=r"the lowest, .*, is above the highest"):
        AugmentationSettings(random_resized_crop={**BOX, **change}, random_crop=None, flip=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def arrays(sizes):
    rng = np.random.default_rng(9)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]


@pytest.fixture(params=["one by one", "as a batch"])
def way(request, monkeypatch):
    """Images are resized one by one on the CPU and as a batch elsewhere; the tests see both."""
    if request.param == "as a batch":
        monkeypatch.setattr(transforms, "_one_by_one", lambda images: False)
    return request.param


def close(found, expected, way, levels=1):
    """Equal, or within the gray levels that a batch may differ by, where pixels lie in -1..1."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if way == "one by one" else levels / 127.5 + 1e-6)


def test_normalize_is_torchvisions():
    images = torch.randint(0, 256, (40, 3, 12, 16), generator=generator(9), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = F.normalize(F.to_dtype(images, torch.float32, scale=True), mean, std)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = normalize(images.contiguous(memory_format=layout), mean, std)
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("sizes", [SIZES, ((20, 30),) * 3], ids=["several sizes", "one size"])
@pytest.mark.parametrize(
    ("resize", "crop"), [([10], [8, 8]), ([12, 18], [8, 8]), ([16], [30, 14]), ([9, 33], None), (None, [16, 16])]
)
@pytest.mark.parametrize(("mode", "levels"), [("bilinear", 1), ("bicubic", 2)])
def test_resize_and_crop_are_torchvisions(way, sizes, resize, crop, mode, levels):
    ours = prepare(pack(arrays(sizes)), changed(PLAIN, resize=resize, crop=crop, interpolation=mode))
    for array, found in zip(arrays(sizes), ours, strict=True):
        image = torch.from_numpy(array).permute(2, 0, 1)
        image = F.resize(image, resize, F.InterpolationMode(mode), antialias=True) if resize else image
        image = F.center_crop(image, crop) if crop else image
        close(found, (image - 127.5) / 127.5, way, levels)


def test_what_is_drawn_is_uniform():
    size = torch.tensor([[12, 16]]).expand(4000, 2)
    views = draw_views(size, changed(NOTHING, random_crop={"padding": 2}, flip=True), generator())
    assert views.box is None
    assert 0.47 < views.mirrored.float().mean() < 0.53
    counts = torch.bincount(views.corner[:, 0] * 5 + views.corner[:, 1], minlength=25)
    assert counts.min() > 100
    assert counts.max() < 230


def test_random_resized_crop_equals_torchvisions_on_the_same_boxes(way):
    settings = changed(NOTHING, random_resized_crop=BOX)
    images = pack(arrays(SIZES * 5))
    views = draw_views(images.size, settings, generator(5))
    # a random box takes the place of resize and crop
    ours = prepare(images, changed(PLAIN, resize=[9, 9], crop=[3, 3]), settings, views)
    for array, box, found in zip(arrays(SIZES * 5), views.box.tolist(), ours, strict=True):
        image = torch.from_numpy(array).permute(2, 0, 1)
        close(found, (F.resized_crop(image, *box, size=[8, 10], antialias=True) - 127.5) / 127.5, way)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (20, 200), (200, 20)])
def test_boxes_follow_torchvisions_law(height, width):
    """Means and spreads of 4000 boxes agree with those of torchvision's own sampler within the sampling error."""
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 4000
    ours = sample_boxes(torch.tensor([[height, width]]).expand(n, 2), scale, ratio, generator(1)).double()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    theirs_of = RandomResizedCrop(8, scale, ratio)
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = [theirs_of.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn]).double()
    error = (ours.var(0) + theirs.var(0)).sqrt() / math.sqrt(n)
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error + 1e-9).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=0.2)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (30, 30)])
def test_where_no_box_fits_it_is_torchvisions_central_one(height, width):
    """A share above 1 never fits."""
    scale, ratio = (1.5, 1.5), (3 / 4, 4 / 3)
    theirs = RandomResizedCrop(8, scale, ratio).make_params([torch.zeros(3, height, width)])
    ours = sample_boxes(torch.tensor([[height, width]]), scale, ratio, generator())[0].tolist()
    assert ours == [theirs[key] for key in ("top", "left", "height", "width")]


ALL = AugmentationSettings(
    random_resized_crop={"size": [8, 8], "scale": [0.5, 1.0], "ratio": [0.75, 1.33]},
    random_crop={"padding": 1},
    flip=True,
)


def test_augmentation_comes_from_its_generator_alone_and_a_batch_may_be_cut_anywhere():
    images = pack(arrays(SIZES * 4))
    views = draw_views(images.size, ALL, generator(3))
    whole = prepare(images, PLAIN, ALL, views)
    torch.manual_seed(12345)
    again, other = (draw_views(images.size, ALL, generator(seed)) for seed in (3, 4))
    parts = [prepare(images[i : i + 5], PLAIN, ALL, again[i : i + 5]) for i in range(0, 12, 5)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(prepare(images, PLAIN, ALL, other), whole)


def test_crop_and_mirror_come_after_the_resize():
    images = pack(arrays(SIZES))
    views = Views(corner=torch.tensor([[0, 2], [1, 1], [2, 0]]), mirrored=torch.tensor([True, False, True]))
    settings = changed(NOTHING, random_crop={"padding": 1}, flip=True)
    ours = prepare(images, changed(PLAIN, resize=[10, 10]), settings, views)
    for array, (top, left), mirrored, found in zip(arrays(SIZES), views.corner, views.mirrored, ours, strict=True):
        image = F.resize(torch.from_numpy(array).permute(2, 0, 1), [10, 10], antialias=True)
        image = torch.nn.functional.pad(image, [1] * 4)[:, top : top + 10, left : left + 10]
        assert torch.equal(found, ((image.flip(-1) if mirrored else image) - 127.5) / 127.5)


def test_images_that_stay_of_several_sizes_are_named():
    images = pack(arrays(((8, 8), (8, 9))))
    with pytest.raises(ValueError, match=r"the images differ in size, \[8, 8\] and \[8, 9\].*; set resize to"):
        prepare(images, PLAIN)
    with pytest.raises(ValueError, match=r"the images differ in size, \[4, 4\] and \[4, 9\]"):
        prepare(pack(arrays(((8, 8), (8, 18)))), changed(PLAIN, resize=[4]))


def test_a_low_precision_is_for_the_network_alone(way, monkeypatch):
    """Gray levels have to survive: bfloat16 tells only every second one of the upper half apart."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    compute, images = Compute.on("cpu", precision="bfloat16"), pack(arrays(SIZES))
    settings = changed(PLAIN, resize=[10, 12])
    seen = []

    def network(shown):
        seen.append(shown)
        return shown.flatten(1) @ torch.ones(360, 2)

    out = apply(network, images, settings, compute)
    assert out.dtype == torch.bfloat16
    assert torch.equal(torch.cat(seen), prepare(images, settings))


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((40, 60), None, None),
        ((40, 60), [20, 30], None),
        ((40, 60), [20, 30], [16, 20]),
        ((60, 40), [30], [24, 25]),
        ((40, 60), None, [50, 64]),
    ],
)
def test_a_mask_on_what_the_network_sees_comes_back_to_its_image(size, resize, crop):
    """Of what lies within the crop; a pixel at the edge of a block may change sides under antialiasing."""
    transform = changed(PLAIN, resize=resize, crop=crop)
    mask = np.zeros(size, bool)
    mask[16:28, 12:32] = True
    (seen,) = show_masks([mask], transform)
    back = hide_masks(seen, size, transform)
    assert back.shape == size
    inside = hide_masks(torch.ones_like(seen), size, transform).numpy()
    assert ((back.numpy() != mask) & inside).sum() <= (0 if resize is None else 20)
    assert not (back.numpy() & ~inside).any()
    seen_again = show_masks([back.numpy()], transform)[0]
    assert (seen_again != seen).sum() <= (0 if resize is None else 10)

"""Image transforms: resizing, cropping and normalization, and random augmentation from one generator.

The random numbers of a whole epoch are drawn at once, on the CPU, so that a batch costs no transfer and waits for
nothing, and does not depend on where or in which batches the images are computed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import interpolate, pad

from hsfm.core.device import Compute
from hsfm.core.settings import FrozenSettings
from hsfm.data.decode_size import resized
from hsfm.data.pixels import Images, pack
from hsfm.data.resize import resample, resize

# Settings -------------------------------------------------------------------------------------------------------------


def _alone(size: Any) -> Any:
    """One number as a list of it."""
    return (size,) if str(size).isdigit() else size


Share = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=2)]


class TransformSettings(FrozenSettings):
    """From an image to what the network sees, in training after the augmentation and everywhere else alone."""

    resize: Annotated[Size | None, BeforeValidator(_alone, json_schema_input_type=PositiveInt | Size | None)] = Field(
        None,
        description="Resize to a height and width in pixels, or to one number for the shorter side; null for none.",
    )
    crop: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="Center crop to a height and width in pixels; null for none."
    )
    mean: tuple[Level, Level, Level] = Field(description="Of each channel in 0..1, so 123.675 is 0.485.")
    std: tuple[Share, Share, Share] = Field(description="Of each channel in 0..1, above 0.")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear",
        description="Of the resize, with antialiasing. bicubic takes pixels: files or decode_size: original.",
    )


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lowest, {pair[0]:g}, is above the highest, {pair[1]:g}")
    return pair


class RandomResizedCrop(FrozenSettings):
    """A random box of an image, resized."""

    size: tuple[PositiveInt, PositiveInt] = Field(description="Height and width that come out.")
    scale: Annotated[tuple[Share, Share], AfterValidator(_rising)] = Field(
        description="Lowest and highest share of the area, at most 1."
    )
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)] = Field(
        description="Lowest and highest aspect ratio."
    )


class RandomCrop(FrozenSettings):
    """A random window of an image that was padded with black, of the image's own size."""

    padding: PositiveInt = Field(description="Pixels on every side.")


class AugmentationSettings(FrozenSettings):
    """Random changes to training images."""

    random_resized_crop: RandomResizedCrop | None = Field(description="A random box resized; null for none.")
    random_crop: RandomCrop | None = Field(description="Pad with black and cut back to the size; null for none.")
    flip: bool = Field(description="Mirror left to right with probability one half.")


# Random views ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """Random changes of n images; null where there are none."""

    box: Int[Tensor, "n 4"] | None = None  # top, left, height, width of what is cut out and resized
    corner: Int[Tensor, "n 2"] | None = None  # top, left of the window in the padded image
    mirrored: Bool[Tensor, " n"] | None = None

    def __getitem__(self, part: slice | Int[Tensor, " k"]) -> "Views":
        return self._each(lambda tensor: tensor[part])

    def to(self, device: torch.device) -> "Views":
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Views":
        return Views(*(None if t is None else change(t) for t in (self.box, self.corner, self.mirrored)))


def draw_views(size: Int[Tensor, "n 2"], settings: AugmentationSettings, generator: Generator) -> Views:
    """Random numbers for n images of these heights and widths, all from `generator`, a CPU generator."""
    box = corner = mirrored = None
    if (crop := settings.random_resized_crop) is not None:
        box = sample_boxes(size, crop.scale, crop.ratio, generator)
    if (crop := settings.random_crop) is not None:
        corner = torch.randint(0, 2 * crop.padding + 1, (len(size), 2), generator=generator)
    if settings.flip:
        mirrored = torch.rand(len(size), generator=generator) < 0.5
    return Views(box, corner, mirrored)


def sample_boxes(
    size: Int[Tensor, "n 2"], scale: Sequence[float], ratio: Sequence[float], generator: Generator
) -> Int[Tensor, "n 4"]:
    """Boxes (top, left, height, width) by the law of torchvision's RandomResizedCrop.

    Area share uniform in `scale`, aspect ratio log-uniform in `ratio`; the first of ten tries that fits, at a uniform
    place; else the largest central box whose ratio is allowed.
    """
    n, tries = len(size), 10

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    height, width = size.double().unbind(1)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform(tries, n))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * uniform(tries, n)).exp()
    h, w = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.int().argmax(0, keepdim=True)  # the first try that fits, where any does
    h, w = h.gather(0, first)[0], w.gather(0, first)[0]
    top, left = (uniform(2, n) * torch.stack([height - h + 1, width - w + 1])).floor()
    # the fall-back, for very flat or very tall images
    whole = width / height
    h0 = torch.where(whole < ratio[0], (width / ratio[0]).round(), height)
    w0 = torch.where(whole > ratio[1], (height * ratio[1]).round(), width)
    found = fits.any(0)
    drawn = torch.stack([top, left, h, w], 1)
    central = torch.stack([((height - h0) / 2).floor(), ((width - w0) / 2).floor(), h0, w0], 1)
    return torch.where(found[:, None], drawn, central).long()


# The network's input --------------------------------------------------------------------------------------------------


def prepare(
    images: Images,
    transform: TransformSettings,
    augmentation: AugmentationSettings | None = None,
    views: Views | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """The network's input for a batch, on its device, channels last in memory.

    augmentation and views: the settings that `draw_views` was given, and what it drew for these images. A random
    resized crop takes the place of resize and crop; random crop and mirroring come after them.
    Raises ValueError where the images are still of several sizes then.
    """
    views = views or Views()
    if views.box is not None:
        size = tuple(augmentation.random_resized_crop.size)
        shown = _resize(images, views.box, [size] * len(images), size)
    else:
        shown = _resize_whole(images, transform)
    if views.corner is not None:
        shown = _random_crop(shown, views.corner, augmentation.random_crop.padding)
    if views.mirrored is not None:
        shown = torch.where(views.mirrored.view(-1, 1, 1, 1), shown.flip(-1), shown)
    return normalize(shown, transform.mean, transform.std)


def apply(
    network: Callable[[Tensor], Tensor], images: Images, transform: TransformSettings, compute: Compute
) -> Float[Tensor, "b k"]:
    """A network's output for a batch on its device, as in evaluation; its rows must not depend on one another."""
    outputs = []
    for part in compute.parts(len(images), *shape_after(images, transform)):
        shown = prepare(images[part], transform)  # outside of autocast, whose precision gray levels do not bear
        with compute.autocast():
            outputs.append(network(shown))
    return torch.cat(outputs)


def show_masks(kept: Sequence[Bool[np.ndarray, "_h _w"]], transform: TransformSettings) -> Bool[Tensor, "b h2 w2"]:
    """Masks of whole images as they lie on what the network sees: what is at least half kept."""
    white = [np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1) for mask in kept]
    return _resize_whole(pack(white), transform)[:, 0] >= 128


def hide_masks(kept: Bool[Tensor, "h w"], size: tuple[int, int], transform: TransformSettings) -> Bool[Tensor, "h2 w2"]:
    """A mask on what the network sees, as it lies on an image of this size; nothing beyond the crop is kept."""
    full = resized(*size, transform.resize)
    # the center crop of a picture that counts its pixels says which of them the network sees, -1 for black around it
    number = torch.arange(1, full[0] * full[1] + 1).view(1, *full).expand(3, -1, -1)
    seen = center_crop(number, *kept.shape)[0] - 1
    canvas = torch.zeros(full[0] * full[1])
    canvas[seen[kept & (seen >= 0)]] = 1.0
    return interpolate(canvas.view(1, 1, *full), size, mode="nearest-exact")[0, 0] > 0


def _resize_whole(images: Images, transform: TransformSettings) -> UInt8[Tensor, "b 3 h w"]:
    full = [resized(*size, transform.resize) for size in images.size_on_cpu.tolist()]
    return _resize(images, None, full, shape_after(images, transform), transform.interpolation)


def _resize(
    images: Images,
    box: Int[Tensor, "b 4"] | None,
    full: Sequence[tuple[int, int]],
    shape: tuple[int, int],
    mode: str = "bilinear",
) -> UInt8[Tensor, "b 3 h w"]:
    """Resize a box of each image, or all of it, to its `full` height and width, and crop the center to `shape`."""
    if box is None and images.shape is not None and (full[0] == images.shape or _one_by_one(images)):
        return center_crop(resize(images.stacked(), *full[0], mode), *shape)
    if box is None:
        box = torch.cat([torch.zeros_like(images.size), images.size], 1)
    if _one_by_one(images):
        shown = [
            center_crop(resize(image[:, top : top + height, left : left + width], *to, mode), *shape).permute(1, 2, 0)
            for image, (top, left, height, width), to in zip(images.each(), box.tolist(), full, strict=True)
        ]
        return torch.stack(shown).permute(0, 3, 1, 2)  # channels last in memory
    size = torch.tensor(full)
    over = size - torch.tensor(shape)
    window = torch.where(over < 0, -(-over // 2), (over / 2).round().long())  # as in center_crop
    size, window = (tensor.to(box.device, non_blocking=True) for tensor in (size, window))
    return resample(images.stacked(), box, size, window, shape, mode)


def shape_after(images: Images, transform: TransformSettings) -> tuple[int, int]:
    """Height and width of all images after resize and crop; ValueError where they differ."""
    return common_shape(images.size_on_cpu.tolist(), transform)


def common_shape(sizes: Iterable[Sequence[int]], transform: TransformSettings) -> tuple[int, int]:
    """As `shape_after`, of images of these heights and widths."""
    if transform.crop is not None:
        return transform.crop
    shapes = sorted({resized(*size, transform.resize) for size in sizes})
    if len(shapes) > 1:
        raise ValueError(
            f"transform: the images differ in size, {list(shapes[0])} and {list(shapes[-1])} (height, width); "
            "set resize to [height, width], or resize and crop"
        )
    return shapes[0]


def _one_by_one(images: Images) -> bool:
    """The CPU has a kernel that resizes uint8 images in a thirtieth of the time of matrix products; a GPU has none."""
    return images.pixels.device.type == "cpu"


def center_crop(images: Shaped[Tensor, "*b 3 h w"], height: int, width: int) -> Shaped[Tensor, "*b 3 h2 w2"]:
    """The middle of each image; black around it where the image is smaller."""
    if images.shape[-2:] == (height, width):
        return images
    from torchvision.transforms.v2.functional import center_crop  # a second, which not every job has to pay

    return center_crop(images, [height, width])


def _random_crop(
    images: Shaped[Tensor, "b 3 h w"], corner: Int[Tensor, "b 2"], padding: int
) -> Shaped[Tensor, "b 3 h w"]:
    """Pad with black on all sides, and cut each image back to its size from its corner (top, left) on."""
    b, _, height, width = images.shape
    each, device = torch.arange(b, device=images.device)[:, None, None], images.device
    y = corner[:, :1] + torch.arange(height, device=device)
    x = corner[:, 1:] + torch.arange(width, device=device)
    padded = pad(images, [padding] * 4).permute(0, 2, 3, 1)
    return padded[each, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)


def normalize(
    images: UInt8[Tensor, "b 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 h w"]:
    """(pixel / 255 - mean) / std per channel; channels last in memory."""
    # as (pixel - 255 mean) / (255 std), which needs two passes over the pixels
    shift, factor = (torch.tensor([255.0 * v for v in values]).view(3, 1, 1) for values in (mean, std))
    shown = images.to(torch.float32, memory_format=torch.channels_last)
    return shown.sub_(shift.to(shown.device, non_blocking=True)).div_(factor.to(shown.device, non_blocking=True))

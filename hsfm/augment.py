"""From uint8 images to what a network sees: the fixed transform, and random augmentation from one generator."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Generator, Tensor

Images = UInt8[Tensor, "b 3 _h _w"] | list[UInt8[Tensor, "3 _h _w"]]  # of one size, or of several


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 h w"]:
    """(pixel / 255 - mean) / std per channel."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (mean, std))
    return (images.float() / 255 - mean) / std


def transform(images: Images, settings: Mapping[str, Any]) -> Float[Tensor, "b 3 _h2 _w2"]:
    """The evaluation transform: `resize` [h w] or null, centre `crop` [h w] or null, then `mean` and `std`.

    Raises ValueError where images of several sizes are still of several sizes then.
    """
    if isinstance(images, list):
        views = [transform(image.unsqueeze(0), settings) for image in images]
        sizes = sorted({tuple(view.shape[-2:]) for view in views})
        if len(sizes) > 1:
            raise ValueError(
                f"transform: the images differ in size, {list(sizes[0])} and {list(sizes[-1])} (height, width); "
                "set resize to [height, width], or resize and crop"
            )
        return torch.cat(views)
    if settings["resize"] is not None or settings["crop"] is not None:
        # imported here: torchvision takes as long to load as torch, and images of the right size do not need it
        from torchvision.transforms.v2 import functional as F

        if settings["resize"] is not None:
            images = F.resize(images, list(settings["resize"]), antialias=True)
        if settings["crop"] is not None:
            images = F.center_crop(images, list(settings["crop"]))
    return normalise(images, settings["mean"], settings["std"])


def augment(images: Images, settings: Mapping[str, Any], generator: Generator) -> Images:
    """Random training views; all randomness comes from `generator`, a CPU generator.

    settings: `random_resized_crop` {size [h w], scale, ratio} or null, `random_crop` {padding} or null, `flip` (with
    probability one half). Images of several sizes are treated one by one.
    """
    if isinstance(images, list):
        return [augment(image.unsqueeze(0), settings, generator).squeeze(0) for image in images]
    if (crop := settings["random_resized_crop"]) is not None:
        images = random_resized_crop(images, crop["size"], crop["scale"], crop["ratio"], generator)
    if (crop := settings["random_crop"]) is not None:
        images = random_crop(images, crop["padding"], generator)
    if settings["flip"]:
        images = random_flip(images, generator)
    return images


def random_flip(images: Shaped[Tensor, "b 3 h w"], generator: Generator) -> Shaped[Tensor, "b 3 h w"]:
    """Mirror each image left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def random_crop(images: Shaped[Tensor, "b 3 h w"], padding: int, generator: Generator) -> Shaped[Tensor, "b 3 h w"]:
    """Pad with black on all sides and cut each image back to its size at a place of its own."""
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator).tolist()
    return torch.stack([image[:, t : t + height, w : w + width] for image, t, w in zip(padded, top, left, strict=True)])


def random_resized_crop(
    images: UInt8[Tensor, "b 3 h w"],
    size: Sequence[int],
    scale: Sequence[float],
    ratio: Sequence[float],
    generator: Generator,
) -> UInt8[Tensor, "b 3 h2 w2"]:
    """Cut a random box from each image and resize it bilinearly, with antialiasing, to `size` (height, width).

    The boxes follow torchvision's RandomResizedCrop: area share uniform in `scale`, aspect ratio log-uniform in
    `ratio`, ten tries, then the largest central box whose ratio is allowed.
    """
    from torchvision.transforms.v2 import functional as F

    boxes = [sample_box(*images.shape[-2:], scale, ratio, generator) for _ in images]
    return torch.stack(
        [F.resized_crop(image, *box, size=list(size), antialias=True) for image, box in zip(images, boxes, strict=True)]
    )


def sample_box(
    height: int, width: int, scale: Sequence[float], ratio: Sequence[float], generator: Generator
) -> tuple[int, int, int, int]:
    """One box (top, left, height, width) by the law of `random_resized_crop`."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def below(n: int) -> int:
        return int(torch.randint(0, n, (), generator=generator))

    for _ in range(10):
        area = height * width * uniform(*scale)
        aspect = math.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1), below(width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w

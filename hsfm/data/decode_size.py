"""Smallest storage size that is lossless for the training and evaluation transforms.

A rule is a dict that JSON can hold:

{}                                 as in the file
{"exactly": [h, w] or [shorter]}   what the transform's own resize gives: nothing that comes before it needs more
{"resize": ..., "crop": ...}       the aspect ratio kept; no smaller than the transform's `resize` asks for, and large
                                   enough that the smallest box of a random resized `crop` {size, scale, ratio} has the
                                   pixels that come out of it

No image is ever enlarged.
"""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import Any


def decode_rule(
    choice: str, transform: Mapping[str, Any], augmentation: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The rule for `needed` or `original`. augmentation: None for a network that is not trained on these images."""
    resize = transform["resize"]
    if choice == "original" or resize is None:
        return {}
    crop = augmentation["random_resized_crop"] if augmentation else None
    return {"exactly": list(resize)} if crop is None else {"resize": list(resize), "crop": dict(crop)}


def resized(height: int, width: int, size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width after a resize to `size`: [h, w], [length] of the shorter side, as in torchvision, or None."""
    if size is None:
        return height, width
    if len(size) == 2:
        return int(size[0]), int(size[1])
    shorter, longer = min(height, width), max(height, width)
    other = size[0] * longer // shorter
    return (size[0], other) if height <= width else (other, size[0])


def stored_size(height: int, width: int, rule: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in which an image of this height and width is stored."""
    if not rule:
        return height, width
    if "exactly" in rule:
        h, w = resized(height, width, rule["exactly"])
        # an image that is smaller on one side would be enlarged there: it stays as it is, and is resized when used
        return (h, w) if h <= height and w <= width else (height, width)
    least = resized(height, width, rule["resize"])
    size, (scale, _), (narrow, wide) = (rule["crop"][key] for key in ("size", "scale", "ratio"))
    # the smallest box has the area scale * height * width; at ratio r it is sqrt(area / r) high and sqrt(area * r) wide
    side = sqrt(scale * height * width)
    share = max(
        least[0] / height, least[1] / width, size[0] / (side / sqrt(wide)), size[-1] / (side * sqrt(narrow))
    )  # fmt: skip
    return (height, width) if share >= 1 else (ceil(share * height), ceil(share * width))

"""Resizing with antialiasing, as torchvision does it: image by image on the CPU, a batch at once elsewhere.

Output pixel i of n, made from an input of length m, averages the input around (i + 1/2) m/n - 1/2 with weights that
fall off linearly to 0 at a distance of max(m/n, 1), or, bicubic, as Keys' cubic at twice that ("Cubic convolution
interpolation", 1981, with a = -1/2). Both directions are independent, so a batch is two products of matrices,
W_y image W_x^T, whatever the box that each of its images is cut to.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate


def resize(
    images: UInt8[Tensor, "*b 3 h w"], height: int, width: int, mode: str = "bilinear"
) -> UInt8[Tensor, "*b 3 h2 w2"]:
    """One image, or several of one size, on the CPU. mode: bilinear or bicubic."""
    if images.shape[-2:] == (height, width):
        return images
    batch = images if images.ndim == 4 else images[None]
    return interpolate(batch, (height, width), mode=mode, antialias=True).view(*images.shape[:-2], height, width)


def weights(
    length: int, box: Float[Tensor, "b 2"], full: Float[Tensor, " b"], window: Float[Tensor, " b"], n: int, mode: str
) -> Float[Tensor, "b n length"]:
    """Weights of the input pixels in each of n output pixels, along one direction; rows sum to 1.

    box: first input pixel and number of input pixels; nothing outside is looked at. full: the output's length if all
    of the box is shown; window: which of these pixels is the first of the n. One that lies outside sums to 0.
    """
    first, count = box.unbind(1)
    scale = (count / full)[:, None]
    target = torch.arange(n, device=box.device) + window[:, None]  # [b n]
    center = first[:, None] + scale * (target + 0.5)
    source = torch.arange(length, device=box.device) + 0.5
    x = (source - center[:, :, None]).abs() / scale.clamp(min=1)[:, :, None]
    if mode == "bilinear":
        weight = (1 - x).clamp(min=0)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = (source > first[:, None]) & (source < (first + count)[:, None])  # [b length]
    shown = (target >= 0) & (target < full[:, None])
    weight = weight * inside[:, None, :] * shown[:, :, None]
    return weight / weight.sum(2, keepdim=True).clamp(min=1e-6)


def resample(
    images: UInt8[Tensor, "b 3 h w"],
    box: Int[Tensor, "b 4"],
    full: Int[Tensor, "b 2"],
    window: Int[Tensor, "b 2"],
    size: tuple[int, int],
    mode: str = "bilinear",
) -> UInt8[Tensor, "b 3 h2 w2"]:
    """Resize the box (top, left, height, width) of each image to `full` (height, width), and show `size` of that.

    window: top and left of what is shown; black beyond the edges. Within one gray level of `resize` on the cut image,
    which rounds between its two directions.
    """
    down, across = (
        weights(images.shape[2 + i], box[:, i::2].float(), full[:, i].float(), window[:, i].float(), size[i], mode)
        for i in (0, 1)
    )
    b, (n, m) = len(images), size
    pixels = images.permute(0, 2, 3, 1).float()  # [b h w 3]
    if mode == "bicubic":
        # across first, and rounded in between, as on the CPU: a cubic overshoots, and what is cut off there is lost
        cut = torch.bmm(across, pixels.transpose(1, 2).reshape(b, images.shape[3], -1))  # [b m (h 3)]
        cut = cut.round_().clamp_(0, 255).view(b, m, -1, 3).transpose(1, 2)
        cut = torch.bmm(down, cut.reshape(b, images.shape[2], -1)).view(b, n, m, 3)
    else:
        cut = torch.bmm(down, pixels.reshape(b, images.shape[2], -1))  # [b n (w 3)]
        cut = torch.bmm(across, cut.view(b, n, -1, 3).transpose(1, 2).reshape(b, images.shape[3], -1))  # [b m (n 3)]
        cut = cut.view(b, m, n, 3).transpose(1, 2)
    # channels stay last in memory
    return cut.round().clamp_(0, 255).to(torch.uint8).contiguous().permute(0, 3, 1, 2)

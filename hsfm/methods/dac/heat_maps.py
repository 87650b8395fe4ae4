"""Class activation maps (XGradCAM) of the predicted class.

Fu et al., "Axiom-based Grad-CAM", BMVC 2020, on the last feature map that has a place for each part of the image, as
the grad-cam package has it.
"""

from collections.abc import Callable
from math import isqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.hooks import RemovableHandle

from hsfm.core.device import Compute
from hsfm.models.backbone import Network

EPSILON = 1e-7  # grad-cam's
# Where architectures have their last feature map. In a transformer what follows the last attention matters at the class
# token alone, so that its map is what this attention reads: blocks, and the norm at the start of each.
BLOCKS = {"encoder.layers": "ln_1", "blocks": "norm1", "visual.transformer.resblocks": "ln_1"}
POOLING = ("avgpool", "global_pool", "head.global_pool")  # modules that are given it
MAPS = ("layer4", "features", "conv5", "visual.layer4")  # modules that return it


def heat_maps(network: Network, shown: Float[Tensor, "b 3 h w"], compute: Compute) -> Float[Tensor, "b h w"]:
    """Heat maps from 0 to 1 of what the network sees of some images; one that is zero everywhere stays so.

    The network has to lie on the device, in eval mode. Raises ValueError where no feature map of its architecture is
    known, and for images so small that the map has a single place.
    """
    found: list[Tensor] = []

    def start_graph(output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until the block below ends: what lies below the map needs no graph
        found.append(output.detach().requires_grad_())
        return found[0].clone()  # for layers that change their input in place

    handle = _hook(network.body, start_graph)
    try:
        with torch.no_grad(), compute.autocast():
            score = network(shown).max(1).values.sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score, found[0])
    size = tuple(shown.shape[-2:])
    activation, gradient = (_channels_first(one, network.n_features, size) for one in (found[0].detach(), gradient))
    # each channel is weighted by its gradient averaged over its own activation
    weights = (gradient * activation).sum((2, 3)) / (activation.sum((2, 3)) + EPSILON)
    maps = torch.einsum("bk,bkhw->bhw", weights, activation).relu()
    return _stretched(interpolate(_stretched(maps)[:, None], size, mode="bilinear")[:, 0])


def _hook(body: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Pass the last feature map through a function."""
    modules = dict(body.named_modules())
    for blocks, norm in BLOCKS.items():
        if hasattr(modules.get(blocks), "__getitem__") and hasattr(modules[blocks][-1], norm):
            return getattr(modules[blocks][-1], norm).register_forward_hook(lambda _module, _, output: change(output))
    for name in filter(modules.get, POOLING):
        return modules[name].register_forward_pre_hook(lambda _module, inputs: change(inputs[0]))
    for name in filter(modules.get, MAPS):
        return modules[name].register_forward_hook(lambda _module, _, output: change(output))
    raise ValueError(f"heat maps: no feature map of {type(body).__name__} is known; take masks of the dataset instead")


def _channels_first(output: Float[Tensor, "b ..."], channels: int, image: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """A feature map, or its gradient, as [b k h w] in float32, out of that form, [b h w k], or tokens [b t k].

    Tokens are a grid of the image's proportions, behind a few more, such as the class token.
    """
    if output.ndim == 3:
        height = isqrt(output.shape[1] * image[0] // image[1])
        width = height * image[1] // image[0]
        output = output[:, -height * width :].unflatten(1, (height, width)).movedim(-1, 1)
    elif output.shape[-1] == channels != output.shape[1]:
        output = output.movedim(-1, 1)
    if output.shape[-2:].numel() == 1:
        raise ValueError(f"heat maps: images of {image[0]} x {image[1]} pixels have a feature map of one place; resize")
    return output.float()


def _stretched(maps: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Each from 0 to 1; zero where it is the same everywhere."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (maps.amax((1, 2), keepdim=True) + EPSILON)

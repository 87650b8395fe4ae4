"""Class activation maps (XGradCAM) of the predicted class.

XGradCAM (Fu et al., "Axiom-based Grad-CAM", BMVC 2020) of the last feature map that still has a place for each part of
the image; in a ResNet that is the output of the last block of layer4. The numbers are those of the grad-cam package,
which takes activations and gradients to the CPU for them, 100 MB for a batch of 128 images in ResNet-50.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hsfm.core.device import Compute
from hsfm.models.backbone import Network

EPSILON = 1e-7  # grad-cam's


@dataclass(frozen=True)
class FeatureMap:
    """A module whose output has a vector of channels for each place of a grid laid over the image."""

    name: str  # of the module, within the network
    layout: str  # channels_first [b k h w], channels_last [b h w k], or tokens [b t k], of which the last h * w are it
    size: tuple[int, int]  # height and width of the grid

    def channels_first(self, output: Float[Tensor, "b ..."]) -> Float[Tensor, "b k h w"]:
        """The module's output, or its gradient, as [b k h w] in float32."""
        if self.layout == "tokens":
            height, width = self.size
            output = output[:, -height * width :].unflatten(1, self.size)
        return (output if self.layout == "channels_first" else output.movedim(-1, 1)).float()


def last_feature_map(network: Network, example: Float[Tensor, "1 3 h w"]) -> FeatureMap:
    """The last output of a module that is a grid over the image and on which the logits depend at several places.

    Found by one pass over an example, so that it holds for any architecture: pooled features are one place, and what a
    transformer computes after its last attention matters at the class token alone. Raises ValueError where there is
    none, as with images so small that all maps are of one place.
    """
    outputs: list[tuple[str, Tensor]] = []
    calls: Counter[str] = Counter()

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.requires_grad and output.ndim in (3, 4) and len(output) == 1:
                outputs.append((name, output))

        return hook

    with ExitStack() as stack:
        stack.callback(network.train, network.training)
        network.eval()
        for name, module in network.named_modules():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        with torch.enable_grad():
            # a graph even where no weight asks for one
            logits = network(example.detach().requires_grad_())
            score = logits.max()
    # numbers of tokens, which an attention matrix has on both sides
    tokens = {output.shape[1] for _, output in outputs if output.ndim == 3}
    for name, output in reversed(outputs):
        found = _as_map(name, output, network.n_features, tuple(example.shape[-2:]), tokens)
        # a module that is called more than once, such as a block's ReLU, has no output of its own
        if found is None or calls[name] > 1:
            continue
        # one at a time, so that no gradient goes further down than it has to
        (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
        if gradient is not None and (found.channels_first(gradient) != 0).any(1).sum() > 1:
            return found
    raise ValueError(
        f"heat maps: the network has no feature map of more than one place for images of {example.shape[-2]} x "
        f"{example.shape[-1]} pixels (height x width)"
    )


def _as_map(name: str, output: Tensor, n_features: int, image: tuple[int, int], tokens: set[int]) -> FeatureMap | None:
    """How a module's output is a map of an image of this height and width, or None."""
    if output.ndim == 3:
        grid = _grid(output.shape[1], image) if output.shape[2] == n_features else None
        return grid and FeatureMap(name, "tokens", grid)
    last = output.shape[-1] == n_features != output.shape[1]
    height, width = output.shape[1:3] if last else output.shape[2:]
    # of the image's proportions, but for rounding
    if abs(height * image[1] - width * image[0]) > max(image) or height == width in tokens:
        return None
    return FeatureMap(name, "channels_last" if last else "channels_first", (height, width))


def _grid(tokens: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the largest grid of an image's proportions that so many tokens hold, class tokens aside."""
    for count in range(tokens, 1, -1):
        for height in range(1, count + 1):
            if count % height == 0 and height * image[1] == count // height * image[0]:
                return height, count // height
    return None


@contextmanager
def heat_maps(
    network: Network, example: Float[Tensor, "1 3 h w"], compute: Compute
) -> Iterator[Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b h w"]]]:
    """Within the block: a function from what the network sees of a batch to heat maps of the same size, from 0 to 1.

    The network has to lie on the device, in eval mode. The class is the predicted one; a map that is zero everywhere
    stays so. What lies below the feature map runs without a graph, so that the backward pass is that of the head alone.
    """
    feature_map = last_feature_map(network, example)
    module = network.get_submodule(feature_map.name)
    needed = [parameter.requires_grad for parameter in network.parameters()]
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        found[:] = [output.detach().requires_grad_()]
        return found[0].clone()  # for layers that change their input in place

    def heat(shown: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        with torch.enable_grad(), compute.autocast():
            score = network(shown).max(1).values.sum()
        (output,) = found
        (gradient,) = torch.autograd.grad(score, output)
        maps = xgradcam(*(feature_map.channels_first(part) for part in (output.detach(), gradient)))
        return resize_maps(maps, tuple(shown.shape[-2:]))

    with ExitStack() as stack:
        stack.callback(_ask_for_gradients, network, needed)
        _ask_for_gradients(network, [False] * len(needed))
        stack.callback(module.register_forward_hook(keep).remove)
        yield heat


def xgradcam(activations: Float[Tensor, "b k h w"], gradients: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    """The positive part of the sum of channels, each weighted by its gradient averaged over its own activation."""
    weights = (gradients * activations).sum((2, 3)) / (activations.sum((2, 3)) + EPSILON)
    return torch.einsum("bk,bkhw->bhw", weights, activations).relu()


def resize_maps(maps: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b h2 w2"]:
    """Maps from 0 to 1 at an image's height and width, bilinearly."""
    return _stretched(interpolate(_stretched(maps)[:, None], size, mode="bilinear")[:, 0])


def _stretched(maps: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Each from 0 to 1; zero where it is the same everywhere."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (maps.amax((1, 2), keepdim=True) + EPSILON)


def _ask_for_gradients(network: nn.Module, needed: Sequence[bool]) -> None:
    for parameter, need in zip(network.parameters(), needed, strict=True):
        parameter.requires_grad_(need)

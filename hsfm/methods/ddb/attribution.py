"""Integrated gradients: attribution of a class logit to pixels, from a baseline image.

Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017, by captum.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.models.backbone import Network


def integrated_gradients(
    network: Network,
    shown: Float[Tensor, "b 3 h w"],
    baseline: Float[Tensor, "b 3 h w"],
    target: Int[Tensor, " b"],
    *,
    steps: int,
    compute: Compute,
) -> Float[Tensor, "b 3 h w"]:
    """Attributions of what the network sees to the logit of a class, along the line from a baseline.

    The network has to lie on the device, in eval mode. steps: of the Gauss-Legendre quadrature. The attributions of an
    image sum up to the difference of the logits, up to the quadrature's error. Raises ValueError where captum is not
    installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ValueError('integrated gradients need captum; pip install -e ".[diffusion]"') from error

    def logits(images: Tensor) -> Tensor:
        with compute.autocast():
            return network(images).float()

    method = IntegratedGradients(logits)
    # one step of the quadrature at a time, on the CPU for as many images as its caches hold
    return torch.cat(
        [
            method.attribute(
                shown[part], baseline[part], target=target[part], n_steps=steps, internal_batch_size=len(shown[part])
            ).detach()
            for part in compute.parts(len(shown), *shown.shape[-2:])
        ]
    )


def share_inside(attribution: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """The share of the sum of absolute attributions that lies inside a mask; 0 where nothing is attributed at all."""
    size = attribution.abs().sum(1)
    whole = size.sum((1, 2))
    return torch.where(whole > 0, (size * mask).sum((1, 2)) / whole, 0.0)

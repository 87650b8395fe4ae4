"""Features of images for DaC, with BatchNorm as it is or following the batches."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hsfm.core.device import Compute
from hsfm.data.pixels import ImageFiles, Images, image_batches
from hsfm.data.transforms import TransformSettings, apply
from hsfm.features.standardize import Standardization
from hsfm.heads.head import Head
from hsfm.models.backbone import Network


@dataclass(frozen=True)
class Pathway:
    """From images to the features that embeddings hold."""

    network: Network
    transform: TransformSettings
    standardization: Standardization | None  # of the features
    compute: Compute


class Extractor:
    """Features of what a network sees, with BatchNorm as it is, or following the batches.

    Raises ValueError for drift without BatchNorm, or of features that are standardized.
    """

    def __init__(self, pathway: Pathway, *, drifts: bool):
        network, compute = pathway.network, pathway.compute
        self.drifts = drifts
        self._network = compute.prepare(network).eval()
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if drifts and not norms:
            raise ValueError("batchnorm: drift was asked for, but this backbone has no BatchNorm; set it to frozen")
        if drifts and pathway.standardization is not None:
            raise ValueError("batchnorm: drift moves the features, which standardized ones cannot follow; set frozen")
        self._drifting = norms if drifts else []
        self._forward = compute.compiled(network.features)
        self._pathway = pathway

    def __call__(self, shown: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features for training a head, which no gradient passes."""
        compute, standardization = self._pathway.compute, self._pathway.standardization
        for norm in self._drifting:
            norm.train()
        parts = [slice(None)] if self.drifts else compute.parts(len(shown), *shown.shape[-2:])
        with torch.inference_mode(), compute.autocast():
            features = torch.cat([self._forward(shown[part]).float() for part in parts])
        for norm in self._drifting:
            norm.eval()
        features = features.clone()  # out of inference mode, or autograd could not keep them for the head's gradient
        return features if standardization is None else standardization.apply(features)

    def of_images(self, images: Images | ImageFiles, batch_size: int) -> Float[Tensor, "n d"]:
        """Features of whole images as in evaluation."""
        transform, compute = self._pathway.transform, self._pathway.compute
        with torch.inference_mode():
            batches = image_batches(images, torch.arange(len(images)), batch_size, compute.device)
            return torch.cat([apply(self._forward, batch, transform, compute).float() for batch in batches])

    def statistics(self) -> dict[str, Tensor]:
        """A copy of BatchNorm's running statistics; empty where it is frozen."""
        return {name: buffer.detach().clone() for name, buffer in self._network.named_buffers() if self.drifts}

    def network_with(self, statistics: Mapping[str, Tensor], head: Head) -> Network:
        """The network with these statistics and this head."""
        self._network.load_state_dict(statistics, strict=False)
        self._network.fc.load_state_dict({"weight": head.weight, "bias": head.bias})
        return self._network

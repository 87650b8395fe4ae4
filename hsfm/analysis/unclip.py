"""Pictures of CLIP embeddings by Stable Diffusion unCLIP: what an edit looks like.

The pipeline of diffusers scales, noises and unscales `image_embeds` itself: it is handed CLIP's raw projections.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from hsfm.core.device import Compute, fetch


def decode(
    pipeline: Any,
    embeddings: Float[Tensor, "n d"],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float | int,
    noise_level: int,
    size: tuple[int, int],
    batch_size: int,
    compute: Compute,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """A picture of each embedding, in order.

    embeddings: CLIP's raw projections, of the model that the pipeline was trained with. seeds: of each picture's noise,
    drawn on the CPU; equal embeddings with equal seeds give equal pictures. The prompt is empty. Raises ValueError for
    embeddings of another width than the pipeline's, and for a picture that is not finite.
    """
    width = pipeline.image_normalizer.mean.shape[-1]
    if embeddings.shape[1] != width:
        raise ValueError(f"unclip: the embeddings have {embeddings.shape[1]} numbers, but the pipeline decodes {width}")

    def made() -> Iterator[Tensor]:
        for first in range(0, len(embeddings), batch_size):
            part = embeddings[first : first + batch_size]
            pictures = pipeline(
                prompt=[""] * len(part),
                image_embeds=part.to(compute.device, pipeline.unet.dtype),
                height=size[0],
                width=size[1],
                num_inference_steps=steps,
                guidance_scale=guidance,
                noise_level=noise_level,
                generator=[Generator().manual_seed(seed) for seed in seeds[first : first + batch_size]],
                output_type="pt",
            ).images
            if not pictures.isfinite().all():
                raise ValueError("unclip: a picture holds a NaN; a precision of longer range helps: bfloat16, float32")
            yield (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8)

    with compute.repeatable():
        for pictures in fetch(made()):
            yield from (picture.permute(1, 2, 0).contiguous().numpy() for picture in pictures)

"""Decode CLIP embeddings to pictures by Stable Diffusion unCLIP, to show edits.

The pipeline of diffusers scales, noises and unscales `image_embeds` itself: it is handed CLIP's raw projections.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Generator, Tensor

from hsfm.core.device import Compute
from hsfm.core.progress import Progress
from hsfm.data.pixels import pack
from hsfm.data.table import ImageTable
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.methods.ddb.diffusion_models import LoadingSettings, ModelSettings, PictureSize
from hsfm.methods.ddb.generated import seed_of


class UnclipSettings(LoadingSettings):
    """HSFM's edits decoded by Stable Diffusion unCLIP, for a backbone of open_clip whose embeddings it decodes."""

    model: ModelSettings = Field(description="A pipeline of diffusers for unCLIP.")
    rows_per_group: PositiveInt = Field(
        2, description="Support rows of each class and attribute, those with the longest edits."
    )
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=2, description="What CLIP is asked about a picture, one for each attribute in their order."
    )
    size: PictureSize = Field((768, 768), description="Height and width in pixels, multiples of 8.")
    steps: PositiveInt = Field(20, description="Of denoising.")
    guidance: float = Field(10.0, ge=1, description="How much the embedding counts; 1 is no guidance.")
    noise_level: int = Field(0, ge=0, le=999, description="Of the noise added to the embedding.")
    batch_size: PositiveInt = Field(4, description="Pictures at once.")
    seed: NonNegativeInt = Field(0, description="Of the pictures' noise, the same before and after an edit.")


def decode(
    pipeline: Any, embeddings: Float[Tensor, "n d"], seeds: Sequence[int], settings: UnclipSettings, compute: Compute
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """A picture of each embedding, under an empty prompt.

    embeddings: CLIP's raw projections, of the model that the pipeline was trained with. seeds: of each picture's noise,
    drawn on the CPU. Raises ValueError for embeddings of another width, and for a picture that is not finite.
    """
    width = pipeline.image_normalizer.mean.shape[-1]
    if embeddings.shape[1] != width:
        raise ValueError(f"unclip: the embeddings have {embeddings.shape[1]} numbers, but the pipeline decodes {width}")
    pictures = []
    with compute.repeatable(), Progress("decoding", len(seeds), "image") as progress:
        for rows in torch.arange(len(seeds)).split(settings.batch_size):
            made = pipeline(
                prompt=[""] * len(rows),
                image_embeds=embeddings[rows].to(compute.device, pipeline.unet.dtype),
                height=settings.size[0],
                width=settings.size[1],
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                noise_level=settings.noise_level,
                generator=[Generator().manual_seed(seeds[row]) for row in rows.tolist()],
                output_type="pt",
            ).images
            if not made.isfinite().all():
                raise ValueError("unclip: a picture holds a NaN; a precision of longer range helps: bfloat16, float32")
            made = (made.float() * 255).round().clamp(0, 255).to(torch.uint8)
            pictures += list(made.permute(0, 2, 3, 1).contiguous().cpu().numpy())
            progress.update(len(rows))
    return pictures


def decode_pairs(
    pipeline: Any,
    raw: Mapping[str, Float[Tensor, "n d"]],
    image_id: Sequence[str],
    settings: UnclipSettings,
    compute: Compute,
) -> dict[str, list[UInt8[np.ndarray, "h w 3"]]]:
    """Pictures of CLIP's raw projections `before` and `after` their edits, each pair with the same noise."""
    seeds, n = [seed_of(settings.seed, one) for one in image_id], len(image_id)
    pictures = decode(pipeline, torch.cat([raw["before"], raw["after"]]), 2 * seeds, settings, compute)
    return {"before": pictures[:n], "after": pictures[n:]}


def classify(
    zero_shot: Callable[[Tensor], Tensor],
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
    transform: TransformSettings,
    compute: Compute,
) -> Float[Tensor, "n k"]:
    """Probabilities of the descriptions that `zero_shot` knows, picture by picture."""
    parts = (pack([picture]).to(compute.device) for picture in pictures)
    return torch.cat([zero_shot(prepare(part, transform)) for part in parts]).cpu()


def check_prompts(prompts: Sequence[str], names: ImageTable) -> None:
    """Raise ValueError unless there is one prompt for each attribute."""
    if len(prompts) != len(names.attribute_names):
        raise ValueError(
            f"unclip/prompts: {len(prompts)}, but {names.dataset} has {len(names.attribute_names)} attributes "
            f"({', '.join(names.attribute_names)}); give one for each"
        )

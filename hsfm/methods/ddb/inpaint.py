"""Inpainting of masked regions by a diffusion model, guided by a prompt."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from hsfm.core.device import Compute, prefetch
from hsfm.core.settings import FrozenSettings
from hsfm.core.shards import cut
from hsfm.methods.ddb.diffusion_models import PictureSize
from hsfm.methods.ddb.generated import NOTHING_FOUND, Pictures, drawn


class InpaintSettings(FrozenSettings):
    """Drawing the new objects."""

    prompt: str = Field(
        pattern="^[^{}]*[{]token[}][^{}]*$",
        description="Prompt for the new object; {token} stands for the learned word of its class.",
    )
    size: PictureSize = Field(
        (512, 512), description="Height and width in pixels, multiples of 8; images are resized to it, and back."
    )
    steps: PositiveInt = Field(50, description="Of denoising; Stable Diffusion's own, as is the guidance.")
    guidance: float = Field(7.5, ge=1, description="How much the prompt counts; 1 is no guidance.")
    batch_size: PositiveInt = Field(8, description="Images at once.")


def inpaint_parts(
    pipeline: Any,
    parts: Sequence[pd.DataFrame],
    pictures: Pictures,
    masks: Mapping[str, Bool[np.ndarray, "_h _w"]],
    *,
    settings: InpaintSettings,
    compute: Compute,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of a generated table for each part of a plan, one part after the other.

    pictures: gives the pixels of sources by their ids. masks: of the sources in which an object was found; the rows of
    others say that there was none. Reading, encoding and writing lie beside what the pipeline computes; no batch
    reaches from one part into another, so that a part comes out the same whichever others there are.
    """

    def batches() -> Iterator[dict[str, Any]]:
        for part in parts:
            for batch in cut(part[part["source_id"].isin(masks.keys())], settings.batch_size):
                prompts = [settings.prompt.format(token=token) for token in batch["token"]]
                found = [masks[source] for source in batch["source_id"]]
                images = pictures(batch["source_id"].to_list())
                yield pipeline_input(images, found, prompts, batch["seed"].to_list(), settings.size)

    new = chain.from_iterable(prefetch(inpaint(pipeline, prefetch(batches()), settings=settings, compute=compute)))
    for part in parts:
        rows = []
        for row in part.to_dict("records"):
            mask = masks.get(row["source_id"])
            if mask is None:
                rows.append({**row, "mask_area": 0.0, "why_not": NOTHING_FOUND})
            else:
                rows.append({**row, **drawn(in_size(next(new), mask.shape), mask)})
        yield rows


def pipeline_input(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    masks: Sequence[Bool[np.ndarray, "_h _w"]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: tuple[int, int],
) -> dict[str, Any]:
    """A batch as arguments of the pipeline: images and masks at one height and width, whatever their proportions."""
    pixels = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    covered = torch.cat([_resize(torch.from_numpy(mask)[None, None].float(), size) for mask in masks])
    return {
        "image": torch.cat([_resize(image, size) for image in pixels]),
        "mask_image": (covered > 0.25).float(),  # what the mask touches counts as the object
        "prompt": list(prompts),
        "generator": [Generator().manual_seed(seed) for seed in seeds],
    }


def in_size(picture: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The pipeline's picture in the size of its source."""
    return _resize(picture[None], size)[0].permute(1, 2, 0).contiguous().numpy()


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return interpolate(image, size, mode="bilinear", antialias=True)


def inpaint(
    pipeline: Any, batches: Iterable[dict[str, Any]], *, settings: InpaintSettings, compute: Compute
) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Inpaint each batch by a pipeline of diffusers; pictures of its size, on the CPU.

    The noise of an image comes from its own seed, drawn on the CPU, so that neither the other images of a batch nor the
    device change it. The source's own pixels are not put back around the mask: all attribution would lie inside it
    then, whatever was drawn. Raises ValueError for a picture that is not finite.
    """
    height, width = settings.size
    how = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "strength": 1.0}

    with compute.repeatable():
        for batch in batches:
            pictures = pipeline(**batch, **how, height=height, width=width, output_type="pt").images
            if not pictures.isfinite().all():
                raise ValueError("inpainting: a picture holds a NaN; take a precision of longer range, as bfloat16")
            yield (pictures.float() * 255).round().clamp(0, 255).to("cpu", torch.uint8)

"""Inpainting of masked regions by a diffusion model, guided by a prompt."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from hsfm.core.device import Compute, fetch, prefetch
from hsfm.core.settings import FrozenSettings
from hsfm.core.shards import cut
from hsfm.methods.ddb.diffusion_models import PictureSize
from hsfm.methods.ddb.generated import NOTHING_FOUND, drawn


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
    pictures: Callable[[Sequence[str]], Sequence[UInt8[np.ndarray, "_h _w 3"]]],
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

    def batches() -> Iterator[Batch]:
        for part in parts:
            for batch in cut(part[part["source_id"].isin(masks.keys())], settings.batch_size):
                prompts = [settings.prompt.format(token=token) for token in batch["token"]]
                found = [masks[source] for source in batch["source_id"]]
                images = pictures(batch["source_id"].to_list())
                yield at_size(images, found, prompts, batch["seed"].to_list(), settings.size)

    new = chain.from_iterable(prefetch(inpaint(pipeline, prefetch(batches()), settings=settings, compute=compute)))
    with ThreadPoolExecutor(2) as pool:
        for part in parts:
            rows = [
                (row, pool.submit(drawn, next(new), masks[row["source_id"]]) if row["source_id"] in masks else None)
                for row in part.to_dict("records")
            ]
            yield [
                {**row, "mask_area": 0.0, "why_not": NOTHING_FOUND} if encoded is None else {**row, **encoded.result()}
                for row, encoded in rows
            ]


@dataclass(frozen=True)
class Batch:
    """Images at the size that the pipeline works with, each with a mask, a prompt and a seed of its own; on the CPU."""

    images: Float[Tensor, "b 3 h w"]  # from 0 to 1
    masks: Float[Tensor, "b 1 h w"]  # 0 or 1
    prompts: Sequence[str]
    seeds: Sequence[int]
    sizes: Sequence[tuple[int, int]]  # height and width that each had


def at_size(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    masks: Sequence[Bool[np.ndarray, "_h _w"]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: tuple[int, int],
) -> Batch:
    """Bring images and masks to one height and width; proportions may change, and are brought back afterwards."""
    pixels = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    resized = torch.cat([_resize(image, size) for image in pixels])
    covered = torch.cat([_resize(torch.from_numpy(mask)[None, None].float(), size) for mask in masks])
    # what the mask touches counts as the object
    return Batch(resized, (covered > 0.25).float(), prompts, seeds, [image.shape[:2] for image in images])


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return interpolate(image, size, mode="bilinear", antialias=True)


def inpaint(
    pipeline: Any, batches: Iterable[Batch], *, settings: InpaintSettings, compute: Compute
) -> Iterator[list[UInt8[np.ndarray, "_h _w 3"]]]:
    """Inpaint each batch by a pipeline of diffusers; every image keeps its size.

    The noise of an image comes from its own seed, drawn on the CPU, so that neither the other images of a batch nor the
    device change it. The source's own pixels are not put back around the mask: all attribution would lie inside it
    then, whatever was drawn. Raises ValueError for a picture that is not finite.
    """
    sizes: list[Sequence[tuple[int, int]]] = []

    def made() -> Iterator[Tensor]:
        for batch in batches:
            sizes.append(batch.sizes)
            pictures = pipeline(
                prompt=list(batch.prompts),
                image=batch.images,
                mask_image=batch.masks,
                height=batch.images.shape[2],
                width=batch.images.shape[3],
                strength=1.0,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=[Generator().manual_seed(seed) for seed in batch.seeds],
                output_type="pt",
            ).images
            if not pictures.isfinite().all():
                raise ValueError("inpainting: a picture holds a NaN; take a precision of longer range, as bfloat16")
            yield (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8)

    with compute.repeatable():
        for pictures in fetch(made()):
            resized = (_resize(one, size)[0] for one, size in zip(pictures.split(1), sizes.pop(0), strict=True))
            yield [picture.permute(1, 2, 0).contiguous().numpy() for picture in resized]

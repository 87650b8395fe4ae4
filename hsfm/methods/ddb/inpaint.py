"""Inpainting of masked regions by a diffusion model, guided by a prompt."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from hsfm.methods.ddb.diffusion_models import PictureSize
from hsfm.methods.ddb.generated import NOTHING_FOUND, drawn


class InpaintSettings(FrozenSettings):
    """Drawing the new objects."""

    prompt: str = Field(
        pattern="^[^{}]*[{]token[}][^{}]*$",
        description="What to draw; {token} stands for the learnt word of the new class.",
    )
    size: PictureSize = Field(
        (512, 512),
        description="Height and width in pixels, multiples of 8; images are resized to it, and back.",
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
    others say that there was none. One stream of batches goes through all parts, so that what is read, encoded and
    written lies beside what the pipeline computes; no batch reaches from one part into another, so that a part comes
    out the same whichever others there are.
    """
    batch_size = settings.batch_size
    there = [part[part["source_id"].isin(masks.keys())] for part in parts]

    def batches() -> Iterator[Sized]:
        for batch in (part.iloc[i : i + batch_size] for part in there for i in range(0, len(part), batch_size)):
            yield at_size(
                Batch(
                    images=pictures(batch["source_id"].to_list()),
                    masks=[masks[source] for source in batch["source_id"]],
                    prompts=[settings.prompt.format(token=token) for token in batch["token"]],
                    seeds=batch["seed"].to_list(),
                ),
                settings.size,
            )

    steps, guidance = settings.steps, settings.guidance
    made = prefetch(inpaint(pipeline, prefetch(batches()), steps=steps, guidance=guidance, compute=compute))
    new = (picture for pictures_of_batch in made for picture in pictures_of_batch)
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
    """Images of any sizes, each with a mask, a prompt and a seed of its own."""

    images: Sequence[UInt8[np.ndarray, "_h _w 3"]]
    masks: Sequence[Bool[np.ndarray, "_h _w"]]
    prompts: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Sized:
    """The same at the size that the pipeline works with; on the CPU."""

    images: Float[Tensor, "b 3 h w"]  # from 0 to 1
    masks: Float[Tensor, "b 1 h w"]  # 0 or 1
    prompts: Sequence[str]
    seeds: Sequence[int]
    sizes: Sequence[tuple[int, int]]  # height and width that each had


def at_size(batch: Batch, size: tuple[int, int]) -> Sized:
    """Bring a batch to one height and width; proportions may change, and are brought back afterwards."""
    images = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in batch.images]
    masks = [torch.from_numpy(mask)[None, None].float() for mask in batch.masks]
    return Sized(
        images=torch.cat([_resize(image, size) for image in images]),
        # what the mask touches counts as the object
        masks=(torch.cat([_resize(mask, size) for mask in masks]) > 0.25).float(),
        prompts=batch.prompts,
        seeds=batch.seeds,
        sizes=[image.shape[:2] for image in batch.images],
    )


def _resize(image: Float[Tensor, "1 k h w"], size: tuple[int, int]) -> Float[Tensor, "1 k h2 w2"]:
    if tuple(image.shape[-2:]) == size:
        return image
    return interpolate(image, size, mode="bilinear", antialias=True)


def inpaint(
    pipeline: Any, batches: Iterable[Sized], *, steps: int, guidance: float | int, compute: Compute
) -> Iterator[list[UInt8[np.ndarray, "_h _w 3"]]]:
    """Inpaint each batch by a pipeline of diffusers; every image keeps its size.

    steps: of denoising. guidance: how much the prompt counts. The noise of an image comes from its own seed, drawn on
    the CPU, so that neither the other images of a batch nor the device change it. Pictures of one batch are copied from
    the device while the next one is made. Raises ValueError for a picture that is not finite.

    The whole picture is the pipeline's: the source's own pixels are not put back around the mask. That would leave no
    difference there, and all attribution would lie inside the mask whatever was drawn.
    """
    sizes: list[Sequence[tuple[int, int]]] = []

    def made() -> Iterator[Tensor]:
        for batch in batches:
            sizes.append(batch.sizes)
            height, width = batch.images.shape[-2:]
            pictures = pipeline(
                prompt=list(batch.prompts),
                image=batch.images,
                mask_image=batch.masks,
                height=height,
                width=width,
                strength=1.0,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[Generator().manual_seed(seed) for seed in batch.seeds],
                output_type="pt",
            ).images
            if not pictures.isfinite().all():
                raise ValueError(
                    "inpainting: a picture holds a NaN; a precision of longer range helps: bfloat16, float32"
                )
            yield (pictures.float() * 255).round().clamp(0, 255).to(torch.uint8)

    with compute.repeatable():
        for pictures in fetch(made()):
            yield [_back(picture, size) for picture, size in zip(pictures.split(1), sizes.pop(0), strict=True)]


def _back(picture: UInt8[Tensor, "1 3 h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    if tuple(picture.shape[-2:]) != size:
        picture = interpolate(picture, size, mode="bilinear", antialias=True)
    return picture[0].permute(1, 2, 0).contiguous().numpy()

"""Edits of CLIP embeddings decoded to pictures by Stable Diffusion unCLIP, before and after, and their table.

The pipeline of diffusers scales, noises and unscales `image_embeds` itself: it is handed CLIP's raw projections.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Generator, Tensor

from hsfm.core.device import Compute
from hsfm.core.progress import Progress
from hsfm.data.pixels import pack
from hsfm.data.table import ImageTable, group_name
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.methods.ddb.diffusion_models import LoadingSettings, ModelSettings, PictureSize
from hsfm.methods.ddb.generated import as_png, read_png, seed_of

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("length", pa.float64()),
        ("picture_before", pa.binary()),  # PNG
        ("picture_after", pa.binary()),
        ("probabilities_before", pa.list_(pa.float64())),  # of the attributes' prompts, under CLIP
        ("probabilities_after", pa.list_(pa.float64())),
        ("attribute_before", pa.int32()),  # the most probable
        ("attribute_after", pa.int32()),
        ("moved", pa.bool_()),  # whether these differ
    ]
)
TIMES = ("before", "after")


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
    pipeline: Any,
    embeddings: Mapping[str, Float[Tensor, "n d"]],
    image_id: Sequence[str],
    settings: UnclipSettings,
    compute: Compute,
) -> dict[str, list[UInt8[np.ndarray, "h w 3"]]]:
    """A picture of each embedding under an empty prompt, by time; those of one image from the same noise.

    embeddings: CLIP's raw projections by time, of the model that the pipeline was trained with. Noise is drawn on the
    CPU. Raises ValueError for embeddings of another width, and for a picture that is not finite.
    """
    every, seeds = torch.cat(list(embeddings.values())), [seed_of(settings.seed, one) for one in image_id]
    width = pipeline.image_normalizer.mean.shape[-1]
    if every.shape[1] != width:
        raise ValueError(f"unclip: the embeddings have {every.shape[1]} numbers, but the pipeline decodes {width}")
    pictures = []
    with compute.repeatable(), Progress("decoding", len(every), "image") as progress:
        for rows in torch.arange(len(every)).split(settings.batch_size):
            made = pipeline(
                prompt=[""] * len(rows),
                image_embeds=every[rows].to(compute.device, pipeline.unet.dtype),
                height=settings.size[0],
                width=settings.size[1],
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                noise_level=settings.noise_level,
                generator=[Generator().manual_seed(seeds[row % len(seeds)]) for row in rows.tolist()],
                output_type="pt",
            ).images
            if not made.isfinite().all():
                raise ValueError("unclip: a picture holds a NaN; a precision of longer range helps: bfloat16, float32")
            made = (made.float() * 255).round().clamp(0, 255).to(torch.uint8)
            pictures += list(made.permute(0, 2, 3, 1).contiguous().cpu().numpy())
            progress.update(len(rows))
    return {name: pictures[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(embeddings)}


def classify(
    zero_shot: Callable[[Tensor], Tensor],
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
    transform: TransformSettings,
    compute: Compute,
) -> Float[Tensor, "n k"]:
    """Probabilities of the descriptions that `zero_shot` knows, picture by picture."""
    parts = (pack([picture]).to(compute.device) for picture in pictures)
    return torch.cat([zero_shot(prepare(part, transform)) for part in parts]).cpu()


def as_table(
    edits: pd.DataFrame,
    pictures: Mapping[str, Sequence[np.ndarray]],
    probabilities: Mapping[str, Float[Tensor, "n k"]],
) -> pa.Table:
    """A row of SCHEMA per edit. pictures, probabilities: by time, before and after."""
    frame = edits[["seed", "image_id", "y", "attribute", "length"]].reset_index(drop=True)
    for when in TIMES:
        frame[f"picture_{when}"] = [as_png(picture) for picture in pictures[when]]
        frame[f"probabilities_{when}"] = probabilities[when].tolist()
        frame[f"attribute_{when}"] = probabilities[when].argmax(1).numpy()
    frame["moved"] = frame["attribute_before"] != frame["attribute_after"]
    return pa.Table.from_pandas(frame[SCHEMA.names], SCHEMA, preserve_index=False)


def decoded_pictures(
    table: pa.Table, names: ImageTable, originals: Callable[[Sequence[str]], list[np.ndarray]]
) -> list[dict[str, Any]]:
    """A row per edit: name, original, moved; before and after, each a picture and what CLIP takes it for."""
    rows = []
    for row in table.to_pylist():
        shown = {
            when: (
                read_png(row[f"picture_{when}"]),
                f"{names.attribute_names[row[f'attribute_{when}']]}, {100 * max(row[f'probabilities_{when}']):.0f} %",
            )
            for when in TIMES
        }
        name, original = group_name(names, row["y"], row["attribute"], ",\n"), originals([row["image_id"]])[0]
        rows.append({"name": name, "original": original, **shown, "moved": row["moved"]})
    return rows

"""Segmentation of an object named by a text: GroundingDINO's boxes as prompts for SAM.

Liu et al., "Grounding DINO", ECCV 2024; Kirillov et al., "Segment anything", ICCV 2023; both from transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, PositiveInt
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.core.settings import FrozenSettings
from hsfm.core.shards import cut
from hsfm.methods.ddb.diffusion_models import Model, libraries, load_part
from hsfm.methods.ddb.generated import Pictures, object_row


class SegmentSettings(FrozenSettings):
    """Finding the objects."""

    prompt: str = Field(
        pattern="^[a-z][a-z .-]*[.]$",
        description="Name of the objects, in small letters, with a full stop: animal., bird., hair.",
    )
    box_threshold: float = Field(0.35, ge=0, le=1, description="Lowest score of a box; GroundingDINO's own.")
    text_threshold: float = Field(0.25, ge=0, le=1, description="Lowest score of a box's word; GroundingDINO's own.")
    batch_size: PositiveInt = Field(8, description="Images at once.")


@dataclass(frozen=True)
class Found:
    """Detections in one image."""

    boxes: Float[Tensor, "k 4"]  # left, top, right, bottom in pixels, the best one first; k = 0: nothing
    scores: Float[Tensor, " k"]
    mask: Bool[np.ndarray, "h w"] | None  # None: nothing


class Segmenter:
    """Both models, on the device, in float32, so that a box's score does not depend on the precision."""

    def __init__(self, detector: Model, segmenter: Model, compute: Compute):
        _, parts = libraries()
        exact = {"use_safetensors": True, "dtype": torch.float32}
        self._finder = load_part(parts.GroundingDinoForObjectDetection, detector, **exact).eval().to(compute.device)
        self._finder_input = load_part(parts.GroundingDinoProcessor, detector)
        self._sam = load_part(parts.SamModel, segmenter, **exact).eval().to(compute.device)
        self._sam_input = load_part(parts.SamProcessor, segmenter)
        self._device = compute.device

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "_h _w 3"]], settings: SegmentSettings) -> list[Found]:
        """Objects of some images, of any sizes; an image may show several."""
        found = self._find(images, settings)
        if not any(len(boxes) for boxes, _ in found):
            return [Found(boxes, scores, None) for boxes, scores in found]
        pixels = self._sam_input(images=list(images), return_tensors="pt")["pixel_values"]
        embeddings = self._sam.get_image_embeddings(pixels.to(self._device)).split(1)
        return [
            Found(boxes, scores, self._segment(image, boxes, embedding) if len(boxes) else None)
            for image, (boxes, scores), embedding in zip(images, found, embeddings, strict=True)
        ]

    def _find(self, images: Sequence[np.ndarray], settings: SegmentSettings) -> list[tuple[Tensor, Tensor]]:
        """Boxes and scores of each image.

        Images of one size go together: padded ones would depend on their neighbors.
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for size in dict.fromkeys(image.shape[:2] for image in images):
            numbers = [number for number, image in enumerate(images) if image.shape[:2] == size]
            same, prompts = [images[number] for number in numbers], [settings.prompt] * len(numbers)
            inputs = self._finder_input(images=same, text=prompts, return_tensors="pt")
            results = self._finder_input.post_process_grounded_object_detection(
                self._finder(**inputs.to(self._device)),
                inputs["input_ids"],
                threshold=settings.box_threshold,
                text_threshold=settings.text_threshold,
                target_sizes=[size] * len(numbers),
            )
            for number, one in zip(numbers, results, strict=True):
                order = one["scores"].argsort(descending=True, stable=True)
                found[number] = one["boxes"][order].cpu(), one["scores"][order].cpu()
        return [found[number] for number in range(len(images))]

    def _segment(self, image: np.ndarray, boxes: Float[Tensor, "k 4"], embedding: Tensor) -> Bool[np.ndarray, "h w"]:
        """The union of the masks of some boxes."""
        inputs = self._sam_input(images=[image], input_boxes=[boxes.tolist()], return_tensors="pt")
        prompts = inputs["input_boxes"].to(self._device, torch.float32)
        masks = self._sam(image_embeddings=embedding, input_boxes=prompts, multimask_output=False).pred_masks.cpu()
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        return self._sam_input.image_processor.post_process_masks(masks, *sizes)[0].any(0)[0].numpy()


def find_objects(
    sources: pd.DataFrame,
    pictures: Pictures,
    segment: Callable[[Sequence[np.ndarray]], Sequence[Found]],
    batch_size: int,
    done: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Rows of the table of objects for those that a detector finds. done: is told how many more were looked at."""
    for batch in cut(sources, batch_size):
        for source, one in zip(batch.itertuples(), segment(pictures(batch["image_id"])), strict=True):
            score = float(one.scores[0]) if len(one.scores) else None
            yield object_row(source, one.mask, boxes=len(one.boxes), score=score)
        done(len(batch))

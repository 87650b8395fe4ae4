"""Cut-and-paste generation: an object of one image pasted into another, whose own object is erased.

This replaces DDB's diffusion model: the object is real, and so is the scene. Erasing is OpenCV's inpainting
(Telea, "An image inpainting technique based on the fast marching method", 2004).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt

from hsfm.core.settings import FrozenSettings
from hsfm.methods.ddb.generated import NOTHING_FOUND, Pictures, drawn, masks_of

NO_DONOR = "no object was found in any source of the class"
NO_SCENE = "the object covers the whole source"


class CutPasteSettings(FrozenSettings):
    """Generation without a diffusion model."""

    masks: Literal["heat_map", "dataset"] = Field(
        "heat_map",
        description="Of the objects: heat_map takes DaC's (section masks), dataset those it knows.",
    )
    margin: NonNegativeInt = Field(1, description="Pixels around an object that are erased with it.")
    radius: PositiveInt = Field(3, description="Pixels around a place that erasing looks at.")


class Paster:
    """Pastes the object of one source of a class into a source of another.

    objects: their table. pictures: gives the pixels of sources by their ids.
    """

    def __init__(self, objects: pd.DataFrame, pictures: Pictures, settings: CutPasteSettings):
        self._pictures, self._settings, self._masks = pictures, settings, masks_of(objects)
        there = objects[objects["image_id"].isin(self._masks)]
        self._donors = there.groupby("y")["image_id"].agg(list).to_dict()

    def __call__(self, rows: pd.DataFrame, *, threads: int, done: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """Rows of a generated table for those of a plan, in order. done: is told how many more there are."""
        with ThreadPoolExecutor(threads) as pool:
            for row in pool.map(self._paste, rows.to_dict("records")):
                yield row
                done(1)

    def _paste(self, row: dict[str, Any]) -> dict[str, Any]:
        scene, donors, margin = row["source_id"], self._donors.get(row["y"]), self._settings.margin
        if scene not in self._masks:
            return {**row, "mask_area": 0.0, "why_not": NOTHING_FOUND}
        if not donors:
            return {**row, "mask_area": 0.0, "why_not": NO_DONOR}
        if _with_margin(self._masks[scene], margin).all():
            return {**row, "mask_area": 0.0, "why_not": NO_SCENE}
        # of the image's own seed, so that it does not depend on the others
        donor = donors[np.random.default_rng(row["seed"]).integers(len(donors))]
        picture, giver = self._pictures([scene, donor])
        masks, radius = (self._masks[scene], self._masks[donor]), self._settings.radius
        pasted = cut_paste(picture, masks[0], giver, masks[1], margin=margin, radius=radius)
        return {**row, "donor_id": donor, **drawn(*pasted)}


def cut_paste(
    scene: UInt8[np.ndarray, "h w 3"],
    scene_mask: Bool[np.ndarray, "h w"],
    donor: UInt8[np.ndarray, "h2 w2 3"],
    donor_mask: Bool[np.ndarray, "h2 w2"],
    *,
    margin: int,
    radius: int,
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The donor's object in place of the scene's, and where it is.

    The two objects' boxes have one center, as far as the new one then fits into the image; where the images differ in
    size, the object keeps its share of the image's shorter side. Neither mask may be empty.
    """
    erased = erase(scene, scene_mask, margin=margin, radius=radius)
    window = box(donor_mask)
    object_, mask = _scaled(donor[window], donor_mask[window], min(scene.shape[:2]) / min(donor.shape[:2]))
    room = scene.shape[:2]
    object_, mask = object_[: room[0], : room[1]], mask[: room[0], : room[1]]
    window = []
    for place, length, most in zip(box(scene_mask), mask.shape, room, strict=True):
        start = min(max(round((place.start + place.stop - length) / 2), 0), most - length)
        window.append(slice(start, start + length))
    pasted, where = erased.copy(), np.zeros(room, bool)
    where[tuple(window)] = mask
    pasted[where] = object_[mask]
    return pasted, where


def erase(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], *, margin: int, radius: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with what a mask covers, and `margin` pixels around it, filled from its surroundings."""
    hole = _with_margin(mask, margin).astype(np.uint8)
    return _opencv().inpaint(np.ascontiguousarray(image), hole, radius, _opencv().INPAINT_TELEA)


def _opencv() -> ModuleType:
    """OpenCV, of the extra [diffusion], on one thread, so that pixels do not depend on their number."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _with_margin(mask: Bool[np.ndarray, "h w"], margin: int) -> Bool[np.ndarray, "h w"]:
    cv2 = _opencv()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def box(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Rows and columns of what a mask covers."""
    left, top, width, height = _opencv().boundingRect(mask.astype(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _scaled(
    object_: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], factor: float | int
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Bool[np.ndarray, "h2 w2"]]:
    if factor == 1:
        return object_, mask
    cv2, size = _opencv(), tuple(max(round(length * factor), 1) for length in mask.shape[::-1])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    shrunk = cv2.resize(mask.astype(np.float32), size, interpolation=how) >= 0.5
    # an object thinner than a pixel fills it
    return cv2.resize(object_, size, interpolation=how), shrunk if shrunk.any() else np.ones_like(shrunk)

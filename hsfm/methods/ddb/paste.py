"""Generated images by cut and paste: rows of their table for those of a plan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from hsfm.methods.ddb.cut_paste import CutPasteSettings, cut_paste, leaves_surroundings
from hsfm.methods.ddb.generated import NOTHING_FOUND, drawn
from hsfm.methods.ddb.objects import masks_of

NO_DONOR = "no object was found in any source of the class"
NO_SCENE = "the object covers the whole source"


@dataclass(frozen=True)
class Paster:
    """Pastes the object of one source of a class into a source of another."""

    pictures: Callable[[Sequence[str]], Sequence[np.ndarray]]  # from ids of sources to their pixels
    masks: Mapping[str, Bool[np.ndarray, "_h _w"]]  # of the sources in which an object was found
    donors: Mapping[int, Sequence[str]]  # of each class the sources with an object
    settings: CutPasteSettings

    @staticmethod
    def of(
        objects: pd.DataFrame, pictures: Callable[[Sequence[str]], Sequence[np.ndarray]], settings: CutPasteSettings
    ) -> "Paster":
        """That of a table of objects."""
        masks = masks_of(objects)
        donors = {y: [one for one in part["image_id"] if one in masks] for y, part in objects.groupby("y")}
        return Paster(pictures, masks, donors, settings)

    def __call__(self, rows: pd.DataFrame, *, threads: int, done: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """Rows of a generated table for those of a plan, in order. done: is told how many more there are."""
        with ThreadPoolExecutor(threads) as pool:
            for row in pool.map(self._paste, rows.to_dict("records")):
                yield row
                done(1)

    def _paste(self, row: dict[str, Any]) -> dict[str, Any]:
        scene_id, donors = row["source_id"], self.donors[row["y"]]
        if scene_id not in self.masks:
            return {**row, "mask_area": 0.0, "why_not": NOTHING_FOUND}
        if not donors:
            return {**row, "mask_area": 0.0, "why_not": NO_DONOR}
        margin, radius = self.settings.margin, self.settings.radius
        if not leaves_surroundings(self.masks[scene_id], margin=margin):
            return {**row, "mask_area": 0.0, "why_not": NO_SCENE}
        # of the image's own seed, so that it does not depend on the others
        donor = donors[np.random.default_rng(row["seed"]).integers(len(donors))]
        scene, giver = self.pictures([scene_id, donor])
        pasted = cut_paste(scene, self.masks[scene_id], giver, self.masks[donor], margin=margin, radius=radius)
        return {**row, "donor_id": donor, **drawn(*pasted)}

"""Generated images by cut and paste: rows of their table for those of a plan."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from hsfm.methods.ddb.cut_paste import CutPasteSettings, cut_paste, leaves_surroundings
from hsfm.methods.ddb.generated import NOTHING_FOUND, drawn
from hsfm.methods.ddb.objects import Pictures, masks_of

NO_DONOR = "no object was found in any source of the class"
NO_SCENE = "the object covers the whole source"


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
        scene, donors, how = row["source_id"], self._donors.get(row["y"]), self._settings
        if scene not in self._masks:
            return {**row, "mask_area": 0.0, "why_not": NOTHING_FOUND}
        if not donors:
            return {**row, "mask_area": 0.0, "why_not": NO_DONOR}
        if not leaves_surroundings(self._masks[scene], margin=how.margin):
            return {**row, "mask_area": 0.0, "why_not": NO_SCENE}
        # of the image's own seed, so that it does not depend on the others
        donor = donors[np.random.default_rng(row["seed"]).integers(len(donors))]
        (picture, giver), masks = self._pictures([scene, donor]), (self._masks[scene], self._masks[donor])
        pasted = cut_paste(picture, masks[0], giver, masks[1], margin=how.margin, radius=how.radius)
        return {**row, "donor_id": donor, **drawn(*pasted)}

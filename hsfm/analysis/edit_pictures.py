"""Pictures of the longest edits: support images with their nearest training images before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hsfm.analysis.edits import largest_of_each_group
from hsfm.data.table import group_name
from hsfm.features.embeddings import Embeddings

SHOWN = 8  # edits
NEAREST = 4  # images of each


def neighbor_pictures(
    edits: pd.DataFrame, train: Embeddings, pictures: Callable[[Sequence[str]], list[np.ndarray]]
) -> list[dict[str, Any]]:
    """A row per edit: name, caption, image; before and after, of each neighbor its image, name and whether it has
    another attribute.

    edits: of one seed. pictures: a function from image ids to images.
    """
    # as many of each group, as far as they go
    groups = edits.groupby([edits["y"], edits["attribute"].fillna(-1)]).ngroups
    largest = largest_of_each_group(edits, max(SHOWN // groups, 1)).head(SHOWN)
    labels = dict(zip(train.image_id, zip(train.y.tolist(), train.attribute.tolist(), strict=True), strict=True))

    def near(image_id: Sequence[str], own: int) -> list[tuple[np.ndarray, str, bool]]:
        return [
            (picture, group_name(train, *labels[one], ",\n"), labels[one][1] != own)
            for one, picture in zip(image_id, pictures(image_id), strict=True)
        ]

    rows = []
    for edit in largest.itertuples():
        y, own = labels[edit.image_id]
        rows.append(
            {
                "name": group_name(train, y, own, ",\n"),
                "caption": f"edit {edit.relative_length:.2f}",
                "image": pictures([edit.image_id])[0],
                "before": near(list(edit.nearest_before[:NEAREST]), own),
                "after": near(list(edit.nearest_after[:NEAREST]), own),
            }
        )
    return rows

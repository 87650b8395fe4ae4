"""Support edits as figures show them: in the plane of the spurious and the class direction, and by nearest images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from hsfm.analysis.edits import class_direction, largest_of_each_group, spurious_direction
from hsfm.data.table import group_name
from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support

SPURIOUS, CLASS = "along the spurious direction", "along the class direction"
SHOWN = 3000  # validation images that are drawn, at most
ARROWS = 60  # support rows likewise
EDITS, NEAREST = 8, 4  # edits whose neighbors are shown, and images of each


def in_plane(support: Support, train: Embeddings, val: Embeddings) -> dict[str, Any]:
    """Validation images and support rows, before and after their edits, in the plane of the two directions.

    points: `[n 2]` by group name; before, after `[m 2]`; names: of the support rows' groups; labels: of the axes. Where
    no attribute is known the first principal component of validation takes the place of the spurious direction.
    """
    axes, labels = _axes(train, val)
    shown, rows = evenly_spaced(len(val.y), SHOWN), evenly_spaced(len(support.y), ARROWS)
    places, names = (val.features[shown] @ axes).numpy(), np.array(names_of(val))
    order = dict.fromkeys(names[np.lexsort((val.attribute.numpy(), val.y.numpy()))])
    of_support = names_of_support(support, train)
    return {
        "points": {name: places[names[shown] == name] for name in order},
        "before": (support.before[rows] @ axes).numpy(),
        "after": (support.after[rows] @ axes).numpy(),
        "names": [of_support[row] for row in rows],
        "labels": labels,
    }


def _axes(train: Embeddings, val: Embeddings) -> tuple[Tensor, tuple[str, str]]:
    """The two directions as columns, and their labels."""
    (_, across), up, across_label, up_label = spurious_direction(train, val), class_direction(val), SPURIOUS, CLASS
    if across is None:  # the next best: where features of most images vary most
        # the outermost hundredths of a feature count as their inner ends, or one wild image decides
        usual = val.features.clamp(*map(torch.from_numpy, np.quantile(val.features, (0.01, 0.99), axis=0).astype("f4")))
        across = torch.linalg.svd(usual - usual.mean(0), full_matrices=False).Vh[0]
        across_label = "along the first principal component"
    if up is None:  # a single class
        up, up_label = torch.zeros_like(across), ""
    return torch.stack([across, up]).T, (across_label, up_label)


def names_of(embeddings: Embeddings) -> list[str]:
    """Class and attribute of each row in words."""
    pairs = zip(embeddings.y.tolist(), embeddings.attribute.tolist(), strict=True)
    return [group_name(embeddings, y, attribute) for y, attribute in pairs]


def names_of_support(support: Support, train: Embeddings) -> list[str]:
    """Class and attribute of each support row in words."""
    names = dict(zip(train.image_id, names_of(train), strict=True))
    return [names[image_id] for image_id in support.image_id]


def neighbor_pictures(
    edits: pd.DataFrame, train: Embeddings, pictures: Callable[[Sequence[str]], list[np.ndarray]]
) -> list[dict[str, Any]]:
    """A row for each of the longest edits of each group: name, caption, image; before and after, of each neighbor its
    image, name and whether it has another attribute.

    edits: of one seed. pictures: a function from image ids to images.
    """
    groups = edits.groupby(["y", "attribute"], dropna=False).ngroups
    largest = largest_of_each_group(edits, max(EDITS // groups, 1)).head(EDITS)
    attribute = dict(zip(train.image_id, train.attribute.tolist(), strict=True))
    names = {one: name.replace(", ", ",\n") for one, name in zip(train.image_id, names_of(train), strict=True)}
    rows = []
    for edit in largest.itertuples():
        near = {}
        for when, ids in (("before", edit.nearest_before[:NEAREST]), ("after", edit.nearest_after[:NEAREST])):
            differs = [attribute[one] != attribute[edit.image_id] for one in ids]
            near[when] = list(zip(pictures(list(ids)), [names[one] for one in ids], differs, strict=True))
        caption, (image,) = f"edit {edit.relative_length:.2f}", pictures([edit.image_id])
        rows.append({"name": names[edit.image_id], "caption": caption, "image": image, **near})
    return rows


def evenly_spaced(n: int, most: int) -> Int[np.ndarray, " k"]:
    """At most `most` of the numbers from 0 to n - 1, both ends among them."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))

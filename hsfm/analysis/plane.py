"""Projection of features onto the plane of the spurious and the class direction."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsfm.analysis.edits import class_direction, spurious_direction
from hsfm.analysis.evenly_spaced import evenly_spaced
from hsfm.data.table import group_name
from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support

SPURIOUS, CLASS = "along the spurious direction", "along the class direction"
SHOWN = 3000  # validation images that are drawn, at most
ARROWS = 60  # support rows likewise


@dataclass(frozen=True)
class Plane:
    points: dict[str, np.ndarray]  # [n 2], validation images by group name
    before: np.ndarray  # [m 2], support rows
    after: np.ndarray  # [m 2]
    names: tuple[str, ...]  # of the support rows' groups
    labels: tuple[str, str]  # of the axes


def in_plane(support: Support, train: Embeddings, val: Embeddings) -> Plane:
    """Validation images and support rows, before and after their edits, in the plane of the two directions.

    Where no attribute is known the first principal component of validation takes the place of the spurious direction.
    """
    axes, labels = _axes(train, val)
    shown, rows = evenly_spaced(len(val.y), SHOWN), evenly_spaced(len(support.y), ARROWS)
    places, names = (val.features[shown] @ axes).numpy(), np.array(names_of(val))
    order = list(dict.fromkeys(names[np.lexsort((val.attribute.numpy(), val.y.numpy()))]))
    of_support = names_of_support(support, train)
    return Plane(
        points={name: places[names[shown] == name] for name in order},
        before=(support.before[rows] @ axes).numpy(),
        after=(support.after[rows] @ axes).numpy(),
        names=tuple(of_support[row] for row in rows),
        labels=labels,
    )


def _axes(train: Embeddings, val: Embeddings) -> tuple[Tensor, tuple[str, str]]:
    """The two directions as columns, and their labels."""
    (_, across), up, across_label, up_label = spurious_direction(train, val), class_direction(val), SPURIOUS, CLASS
    if across is None:  # the next best: where features vary most
        across = torch.linalg.svd(val.features - val.features.mean(0), full_matrices=False).Vh[0]
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

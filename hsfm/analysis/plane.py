"""Where features lie in the plane of the spurious and the class direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hsfm.analysis.edits import class_direction, spurious_direction
from hsfm.features.embeddings import Embeddings

SPURIOUS, CLASS = "along the spurious direction", "along the class direction"
SHOWN = 3000  # validation images that are drawn, at most


@dataclass(frozen=True)
class Plane:
    points: dict[str, np.ndarray]  # [n 2], validation images by group name
    before: np.ndarray  # [m 2], support rows
    after: np.ndarray  # [m 2]
    labels: tuple[str, str]  # of the axes


def in_plane(before: Float[Tensor, "m d"], after: Float[Tensor, "m d"], train: Embeddings, val: Embeddings) -> Plane:
    """Validation images and support rows, before and after their edits, in the plane of the two directions.

    Where no attribute is known the first principal component of validation takes the place of the spurious direction.
    """
    _, across = spurious_direction(train, val)
    up = class_direction(val)
    labels = (SPURIOUS, CLASS)
    if across is None:  # the next best: where features vary most
        across = torch.linalg.svd(val.features - val.features.mean(0), full_matrices=False).Vh[0]
        labels = ("along the first principal component", labels[1])
    if up is None:  # a single class
        up, labels = torch.zeros_like(across), (labels[0], "")
    axes = torch.stack([across, up]).T
    shown = np.unique(np.linspace(0, len(val.y) - 1, SHOWN).round().astype(int))
    places, names = (val.features[shown] @ axes).numpy(), np.array(names_of(val))
    order = list(dict.fromkeys(names[np.lexsort((val.attribute.numpy(), val.y.numpy()))]))
    return Plane(
        points={name: places[names[shown] == name] for name in order},
        before=(before @ axes).numpy(),
        after=(after @ axes).numpy(),
        labels=labels,
    )


def names_of(embeddings: Embeddings, rows: Sequence[int] | None = None) -> list[str]:
    """Class and attribute of each row in words."""
    pairs = list(zip(embeddings.y.tolist(), embeddings.attribute.tolist(), strict=True))
    return [name_of(embeddings, *pairs[row]) for row in (range(len(pairs)) if rows is None else rows)]


def name_of(embeddings: Embeddings, y: int, attribute: int) -> str:
    return f"{embeddings.class_names[y]}, {embeddings.attribute_names[attribute] if attribute >= 0 else 'unknown'}"

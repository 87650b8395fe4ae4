"""Small inputs of analyses."""

import torch

from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support


def support_of(part: Embeddings, rows: list[int], edits: torch.Tensor | float = 1.0) -> Support:
    """Rows of a split, with these edits, under seed 0."""
    before = part.features[rows]
    ids = tuple(part.image_id[row] for row in rows)
    return Support((0,) * len(rows), ids, part.y[rows], before, before + edits, part.checkpoint_sha256)

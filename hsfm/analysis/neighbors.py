"""Nearest rows by Euclidean distance, for many queries at once.

Letters: m queries, n rows, d features, k neighbors.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hsfm.core.progress import Progress

QUERIES_AT_ONCE, ROWS_AT_ONCE = 512, 4096
SPARE = 16  # candidates beyond k, among which the exact distances decide


def nearest(
    queries: Float[Tensor, "m d"], rows: Float[Tensor, "n d"], k: int, *, own: Int[Tensor, " m"] | None = None
) -> Int[Tensor, "m k"]:
    """The k nearest rows of each query, the nearest first.

    own: the row that a query itself is, which is left out; -1 for none. Raises ValueError for fewer than k rows.
    """
    available = len(rows) - (0 if own is None else 1)
    if k > available:
        raise ValueError(f"neighbors: {k} were asked for, but there are {available} rows to choose from")
    own = torch.full((len(queries),), -1) if own is None else own
    found = []
    with Progress("nearest neighbors", len(queries), "row") as progress:
        for some, of_them in zip(queries.split(QUERIES_AT_ONCE), own.split(QUERIES_AT_ONCE), strict=True):
            found.append(_nearest(some, rows, k, of_them))
            progress.update(len(some))
    return torch.cat(found)


def _nearest(queries: Tensor, rows: Tensor, k: int, own: Tensor) -> Tensor:
    """Candidates by |q - r|^2 / 2 = |q|^2 / 2 + |r|^2 / 2 - q r in float64; of these the k nearest by the differences
    themselves, and by row where these are equal."""
    center = rows.mean(0)  # distances do not change with the origin, but roundings do
    queries = queries - center
    blocks = ((block - center).double() for block in rows.split(ROWS_AT_ONCE))
    half = torch.cat([block.square().sum(1) / 2 - queries.double() @ block.T for block in blocks], 1)
    half[own >= 0, own[own >= 0]] = torch.inf
    candidates = half.topk(min(k + SPARE, len(rows)), largest=False).indices.sort(dim=1).values
    distance = (rows[candidates] - center - queries[:, None]).square().sum(2).sqrt()
    distance = distance.masked_fill(candidates == own[:, None], torch.inf)
    return candidates.gather(1, distance.argsort(dim=1, stable=True)[:, :k])

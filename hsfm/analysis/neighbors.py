"""Nearest rows by Euclidean distance, without a matrix of all distances.

Letters: m queries, n rows, d features, k neighbors, l candidates.
"""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hsfm.core.progress import Progress

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096
QUERIES_AT_ONCE = 2048
CANDIDATES = 64  # that matrix products keep beyond the k that are asked for


@dataclass(frozen=True)
class Nearest:
    row: Int[Tensor, "m k"]  # the nearest first
    distance: Float[Tensor, "m k"]


def nearest(
    queries: Float[Tensor, "m d"], rows: Float[Tensor, "n d"], k: int, *, own: Int[Tensor, " m"] | None = None
) -> Nearest:
    """The k nearest rows of each query.

    own: the row that a query itself is, which is left out; -1 for none. Matrix products in float32 choose some more
    candidates than k, whose distances are then computed exactly. A query for which a row that was dropped could be
    nearer than its k-th goes through float64. Raises ValueError for fewer than k rows.
    """
    available = len(rows) - (0 if own is None else 1)
    if k > available:
        raise ValueError(f"neighbors: {k} were asked for, but there are {available} rows to choose from")
    own = torch.full((len(queries),), -1) if own is None else own
    # distances do not change with the origin, but roundings do
    center = rows.mean(0)
    parts = []
    with Progress("nearest neighbors", len(queries), "row") as progress:
        for some, of_them in zip(queries.split(QUERIES_AT_ONCE), own.split(QUERIES_AT_ONCE), strict=True):
            parts.append(_nearest(some - center, rows, center, k, of_them))
            progress.update(len(some))
    return Nearest(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _nearest(
    queries: Tensor, rows: Tensor, center: Tensor, k: int, own: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Rows and distances; dtype: of the matrix products."""
    place, dropped = _candidates(queries.to(dtype), rows, center, min(k + CANDIDATES, len(rows)), own)
    distance = torch.cat(
        [
            (rows[candidates] - center - query[:, None]).square().sum(2).sqrt()
            for query, candidates in zip(queries.split(64), place.split(64), strict=True)
        ]
    )
    distance = distance.masked_fill(place == own[:, None], torch.inf)
    # by distance, and by row where that is equal among the candidates
    order = torch.argsort(place, dim=1, stable=True)
    order = order.gather(1, distance.gather(1, order).argsort(dim=1, stable=True))
    row, distance = place.gather(1, order)[:, :k], distance.gather(1, order)[:, :k]
    left = (distance[:, -1] > dropped).nonzero()[:, 0]
    if len(left) and dtype == torch.float32 and place.shape[1] < len(rows):
        log.info("%d of %d queries went through float64", len(left), len(queries))
        row[left], distance[left] = _nearest(queries[left], rows, center, k, own[left], torch.float64)
    return row, distance


def _candidates(
    queries: Float[Tensor, "m d"], rows: Tensor, center: Tensor, count: int, own: Tensor
) -> tuple[Int[Tensor, "m l"], Float[Tensor, " m"]]:
    """The nearest rows as matrix products have it, and the least distance that a row which is not among them can have.

    They are compared by half the squared distance, but for the query's own square.
    """
    best, place, longest = queries.new_empty(len(queries), 0), own.new_empty(len(queries), 0), 0.0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        block = (rows[first : first + ROWS_AT_ONCE] - center).to(queries.dtype)
        squares = block.square().sum(1)
        longest = max(longest, float(squares.max()))
        half = squares / 2 - queries @ block.T
        mine = (own >= first) & (own < first + len(block))
        half[mine.nonzero()[:, 0], own[mine] - first] = torch.inf
        value, column = half.topk(min(count, len(block)), largest=False)
        value, column = torch.cat([best, value], 1), torch.cat([place, column + first], 1)
        best, chosen = value.topk(min(count, value.shape[1]), largest=False)
        place = column.gather(1, chosen)
    squares = queries.square().sum(1)
    # strict bounds of the roundings of the product's additions, and of those of the rows' own squares
    added = queries.shape[1] * torch.finfo(queries.dtype).eps / 2
    error = added * (squares * longest).sqrt() + added * longest / 2
    return place, (squares + 2 * (best.amax(1) - error)).clamp(min=0).sqrt()

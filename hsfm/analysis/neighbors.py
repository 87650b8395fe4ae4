"""Nearest rows by Euclidean distance, without a matrix of all distances.

Letters: m queries, n rows, d features, k neighbors.
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
CANDIDATES = 128  # that a pass in low precision keeps beyond the k that are asked for
DEVIATIONS = 8  # of a sum of roundings in bfloat16 that are taken to be possible
BFLOAT16 = 2.0**-8  # a number's rounding, relative, at most
UNIT = {torch.bfloat16: 2.0**-24, torch.float32: 2.0**-24, torch.float64: 2.0**-53}  # that of each addition


@dataclass(frozen=True)
class Nearest:
    row: Int[Tensor, "m k"]  # the nearest first
    distance: Float[Tensor, "m k"]


def nearest(
    queries: Float[Tensor, "m d"], rows: Float[Tensor, "n d"], k: int, *, own: Int[Tensor, " m"] | None = None
) -> Nearest:
    """The k nearest rows of each query.

    own: the row that a query itself is, which is left out; -1 for none. A first pass, in bfloat16 where the processor
    has instructions for it, keeps some more candidates than k; their distances are then computed exactly. A query
    whose k-th exact distance is above what a row that was dropped could have goes through a higher precision. What it
    could have: the roundings of a product's terms are taken as independent, and their sum as at most eight of its
    standard deviations; those of float32 and float64 are bounded strictly. Raises ValueError for fewer than k rows.
    """
    available = len(rows) - (0 if own is None else 1)
    if k > available:
        raise ValueError(f"neighbours: {k} were asked for, but there are {available} rows to choose from")
    own = torch.full((len(queries),), -1) if own is None else own
    # distances do not change with the origin, but roundings do
    center = rows.mean(0)
    parts = []
    with Progress("nearest neighbours", len(queries), "row") as progress:
        for some, of_them in zip(queries.split(QUERIES_AT_ONCE), own.split(QUERIES_AT_ONCE), strict=True):
            parts.append(_nearest(some - center, rows, center, k, of_them))
            progress.update(len(some))
    return Nearest(*(torch.cat([getattr(part, name) for part in parts]) for name in ("row", "distance")))


def _nearest(queries: Tensor, rows: Tensor, center: Tensor, k: int, own: Tensor) -> Nearest:
    precisions = list(UNIT)
    precisions = precisions[precisions.index(_screening()) :]
    found, sure = _by(precisions[0], queries, rows, center, k, own)
    for dtype in precisions[1:]:
        left = (~sure).nonzero()[:, 0]
        if len(left):
            log.info("%d of %d queries went through %s", len(left), len(sure), str(dtype).removeprefix("torch."))
            again, sure[left] = _by(dtype, queries[left], rows, center, k, own[left])
            found.row[left], found.distance[left] = again.row, again.distance
    return found


def _screening() -> torch.dtype:
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _by(
    dtype: torch.dtype, queries: Tensor, rows: Tensor, center: Tensor, k: int, own: Tensor
) -> tuple[Nearest, Tensor]:
    """Neighbors, and for which queries they are certain."""
    n_kept = min(k + CANDIDATES, len(rows))
    low, best, place = queries.to(dtype), None, None
    longest = largest = 0.0
    product_size = torch.zeros(len(queries))
    for first in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[first : first + ROWS_AT_ONCE] - center
        block = block.double() if dtype == torch.float64 else block
        squares = block.square().sum(1)
        longest, largest = max(longest, float(squares.max())), max(largest, float(block.abs().max()))
        # half the squared distance, but for the query's own square
        product = low @ block.to(dtype).T
        product = product if dtype == torch.float64 else product.float()
        if dtype == torch.bfloat16:
            product_size = torch.maximum(product_size, product.abs().amax(1))
        half = squares / 2 - product
        mine = (own >= first) & (own < first + len(block))
        half[mine.nonzero()[:, 0], own[mine] - first] = torch.inf
        value, column = half.topk(min(n_kept, len(block)), largest=False)
        if best is not None:
            value, column = torch.cat([best, value], 1), torch.cat([place, column + first], 1)
            best, chosen = value.topk(min(n_kept, value.shape[1]), largest=False)
            place = column.gather(1, chosen)
        else:
            best, place = value, column + first
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
    squares = low.square().sum(1) if dtype == torch.float64 else queries.square().sum(1)
    added = queries.shape[1] * UNIT[dtype]
    # of the product's additions, and of those of the rows' own squares
    error = added * (squares * longest).sqrt() + added * longest / 2
    if dtype == torch.bfloat16:
        # variance of the sum over i of q_i x_i (r_i + s_i), r and s uniform, is 2/3 BFLOAT16^2 sum q_i^2 x_i^2 at most
        error = error + DEVIATIONS * BFLOAT16 * (2 / 3 * squares).sqrt() * largest + BFLOAT16 * product_size
    dropped = (squares + 2 * (best.amax(1) - error)).clamp(min=0).sqrt()
    sure = (distance[:, -1] <= dropped) | (n_kept == len(rows))
    return Nearest(row, distance), sure

"""Group labels of a few validation rows, which confirm an inferred attribute and correct it.

As many rows of a class are asked for on either side, for a sample of a biased class shows hardly any minority.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import hypergeom

from hsfm.heads.inferred_groups.groups import Found

AskedBy = Literal["sides", "random", "uncertain"]


@dataclass(frozen=True)
class Hinted:
    """Groups of val after some labels were seen."""

    found: Found
    rows: Int[np.ndarray, " k"]  # of val, whose labels were seen
    p_unrelated: float  # that inferred and true attribute have nothing to do with each other within a class


def choose_rows(
    found: Found, y: Int[np.ndarray, " m"], n: int, by: AskedBy, rng: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """At most n rows of each class: as many on either side of the inferred attribute, at random, or the least sure."""
    chosen = []
    for label in range(y.max() + 1):
        rows = rng.permutation(np.flatnonzero(y == label))
        if by == "uncertain":
            rows = rows[np.argsort(np.abs(found.posterior[rows] - 0.5), kind="stable")]
        if by == "sides":
            own = found.val[rows] == label
            other = rows[~own][: max(n // 2, n - own.sum())]
            rows = np.concatenate([other, rows[own]])
        chosen.append(rows[:n])
    return np.concatenate(chosen)


def p_unrelated(
    other: Bool[np.ndarray, " k"], truly: Bool[np.ndarray, " k"], y: Int[np.ndarray, " k"]
) -> float:  # fmt: skip
    """P(as many rows or more on the other side in both ways), all margins of each class given: Mantel and Haenszel's
    test, exact. 1 where no class has rows on both sides.
    """
    laws, seen = [np.ones(1)], 0
    for label in np.unique(y):
        a, b = other[y == label], truly[y == label]
        laws.append(hypergeom(len(a), a.sum(), b.sum()).pmf(np.arange(min(a.sum(), b.sum()) + 1)))
        seen += int((a & b).sum())
    return float(min(reduce(np.convolve, laws)[seen:].sum(), 1.0))


def use_hints(
    found: Found, y: Int[np.ndarray, " m"], label_of: Callable[[Int[np.ndarray, " k"]], Int[np.ndarray, " k"]],
    *, n: int, by: AskedBy,
) -> Hinted:  # fmt: skip
    """Ask for the attribute of n rows of each class, name the inferred values by it, and correct those rows.

    label_of: from rows of val to their true attribute, a number. The p counts every way to name the values, of which
    the best is taken.
    """
    rows = choose_rows(found, y, n, by, np.random.default_rng(0))
    true, inferred, c = label_of(rows), found.val[rows], len(found.shares)
    together = np.zeros((c, max(c, true.max() + 1)), dtype=int)
    np.add.at(together, (inferred, true), 1)
    named = dict(zip(*linear_sum_assignment(together, maximize=True)[::-1], strict=True))  # attribute: value
    value = np.array([named.get(attribute, -1) for attribute in true])
    p = p_unrelated(inferred != y[rows], value != y[rows], y[rows]) * math.perm(together.shape[1], c)
    known = value >= 0  # of more attributes than classes some have no value
    val, posterior = found.val.copy(), found.posterior.copy()
    val[rows[known]], posterior[rows[known]] = value[known], (value == y[rows])[known]
    sizes = np.bincount(y * c + val, minlength=c * c).reshape(c, c)
    corrected = replace(found, val=val, posterior=posterior, shares=sizes / sizes.sum(1, keepdims=True))
    return Hinted(corrected, rows, min(p, 1.0))

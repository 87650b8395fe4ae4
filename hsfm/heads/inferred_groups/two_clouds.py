"""Exact test of one cloud of scores per class against two.

Null: within a class the density of the scores is log-concave (one Gaussian, uniform, logistic, ...). Its masses in
windows of one width are then log-concave in the window's place (Prekopa), so that three adjacent bins hold B^2 >= A C.
At the boundary B^2 = A C the masses are p, p r, p r^2, and given N = A + B + C and T = B + 2 C the counts have the law

    P(B = b)  proportional to  1 / (a! b! c!),  c = (T - b) / 2,  a = N - b - c,

free of p and r; inside the null B is larger in likelihood ratio. So P(B <= b) is exact there and conservative inside.
Heavy tails are not log-concave: a second test asks whether the third bin holds more than its mirror image on the other
side of the own cloud, which no symmetric density does. The larger p counts.

Probe, its scale and bins are made without the rows that are counted; the pseudo-labels of the other rows have seen
them, as in the prototype, so that the level is measured (benchmarks/idfr.py), not proved.
"""

from functools import reduce

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln
from scipy.stats import binom, norm

from hsfm.heads.inferred_groups.infer import Clouds, fit_clouds, infer, stratified_folds

STARTS = np.arange(0.1, 0.61, 0.1)  # of the first bin; the own cloud lies at 0, the other at 1
WIDTHS = np.arange(0.15, 0.51, 0.05)
# Of P(a | y) in the EM, of which now one and now the other shows the clouds of a network (docs/explanation/idfr.md)
POWERS = (1.0, 0.0)
BINS = np.array([(s, w) for s in STARTS for w in WIDTHS if 0.6 <= s + 2.5 * w <= 1.4])  # center of the third bin


def law(n: int, t: int) -> Float[np.ndarray, " m"]:
    """P(B = t % 2), P(B = t % 2 + 2), ... given N and T, at the null's boundary."""
    b = np.arange(t % 2, min(t, 2 * n - t) + 1, 2)
    c = (t - b) // 2
    log = -gammaln(n - b - c + 1) - gammaln(b + 1) - gammaln(c + 1)
    p = np.exp(log - log.max())
    return p / p.sum()


def p_one_cloud(counts: Int[np.ndarray, "m 3"]) -> float:
    """P(sum of B <= the one seen) of several independent triples of bins."""
    n, t, b = counts.sum(1), counts[:, 1] + 2 * counts[:, 2], counts[:, 1]
    together = reduce(np.convolve, (law(*pair) for pair in zip(n.tolist(), t.tolist(), strict=True)))
    return float(min(together[: (b - t % 2).sum() // 2 + 1].sum(), 1.0))


def p_mirror(beyond: int, mirrored: int) -> float:
    """P(as many or more of both bins' rows lie beyond) where either side is as likely."""
    return float(binom.sf(beyond - 1, beyond + mirrored, 0.5))


def normals(clouds: Clouds) -> Float[np.ndarray, "c k"]:
    """Per class the linear form that is 0 at its own cloud and 1 at the center of the others."""
    step = (clouds.means.sum(0) - clouds.means) / (len(clouds.means) - 1) - clouds.means
    normal = np.linalg.solve(clouds.covariance, step.T).T
    return normal / np.maximum((normal * step).sum(1, keepdims=True), 1e-12)


def shape_along(clouds: Clouds) -> tuple[Float[np.ndarray, "c c"], Float[np.ndarray, " c"]]:
    """Centers of the clouds (columns) on the axis of each class (rows), and the standard deviation about them there."""
    axes = normals(clouds)
    centers = (clouds.means - clouds.means[:, None]) @ axes[..., None]
    return centers[..., 0], np.sqrt(np.einsum("ck,kl,cl->c", axes, clouds.covariance, axes))


def along(clouds: Clouds, z: Float[np.ndarray, "n k"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """u of each row: 0 at the cloud that goes with its class, 1 at the center of the others, linear in the scores."""
    return ((z - clouds.means[y]) * normals(clouds)[y]).sum(1)


def count(u: Float[np.ndarray, " n"], bins: Float[np.ndarray, " 2"]) -> Int[np.ndarray, " 3"]:
    """Rows in three adjacent bins by their start and width."""
    start, width = bins
    return np.diff(np.searchsorted(np.sort(u), start + width * np.arange(4)))


def best_bins(clouds: Clouds, sizes: Int[np.ndarray, " c"]) -> Float[np.ndarray, " 2"]:
    """Start and width at which a sample from this mixture is the most significant; sizes: rows of each class.

    By the normal approximation to the pooled law: B's mean at the boundary, from the r that fits T, and its variance.
    """
    edges = BINS[:, :1] + BINS[:, 1:] * np.arange(4)
    shortfall = variance = 0
    for label, (center, spread) in enumerate(zip(*shape_along(clouds), strict=True)):
        below = norm.cdf((edges[..., None] - center) / spread)
        a, b, c = sizes[label] * np.diff(below @ clouds.prior[label], axis=1).T + 0.1  # no bin is empty for sure
        n, t = a + b + c, b + 2 * c
        # n (r + 2 r^2) = t (1 + r + r^2)
        r = (t - n + np.sqrt((n - t) ** 2 + 4 * (2 * n - t) * t)) / (2 * (2 * n - t))
        first = n / (1 + r + r * r)
        shortfall = shortfall + first * r - b
        variance = variance + 1 / (0.25 / first + 1 / (first * r) + 0.25 / (first * r * r))
    return BINS[int(np.argmax(shortfall / np.sqrt(variance)))]


def p_two_clouds(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], *, seeds: int, folds: int, rounds: int, shrinkage: float
) -> float:
    """Of `of_rule`, the p of so many divisions into folds as seeds."""
    how = {"folds": folds, "rounds": rounds, "shrinkage": shrinkage}
    return float(of_rule(np.array([p_of_division(x, y, seed=seed, **how) for seed in range(seeds)])))


def of_rule(p: Float[np.ndarray, "*n s w"]) -> Float[np.ndarray, "*n"]:
    """From the p of s divisions by each of w POWERS: twice the median, which keeps the level, of the lower, times w."""
    return np.asarray(np.minimum(1, p.shape[-1] * 2 * np.median(p, axis=-2).min(-1)))


def p_of_division(x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], **how: int | float) -> list[float]:
    """The larger p of both tests by each of POWERS."""
    return [max(p_of_folds(x, y, temper=power, **how)) for power in POWERS]


def p_of_folds(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"],
    *, seed: int, folds: int, rounds: int, shrinkage: float, temper: float,
) -> tuple[float, float]:  # fmt: skip
    """p of one cloud and of the mirror image; each fold is counted with probe and bins of the others."""
    division = stratified_folds(y, folds, np.random.default_rng(seed))
    found = infer(x, y, folds=division, rounds=rounds, shrinkage=shrinkage, temper=temper)
    q = found.clouds.posterior(found.scores, y)
    triples, beyond, mirrored = [], 0, 0
    for fold in range(folds):
        out = division == fold
        clouds = fit_clouds(found.scores[~out], y[~out], q[~out])
        bins = best_bins(clouds, np.bincount(y[~out], minlength=len(clouds.means)))
        u = along(clouds, found.scores[out], y[out])
        for label in range(len(clouds.means)):
            triples.append(count(u[y[out] == label], bins))
            beyond += int(triples[-1][2])
            mirrored += int(count(-u[y[out] == label], bins)[2])
    return p_one_cloud(np.array(triples)), p_mirror(beyond, mirrored)

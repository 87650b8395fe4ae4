"""Attributes of rows inferred from features and classes, by an EM on scores of rows that the probe has not seen.

Model: x = effect of the class y + effect of the attribute a + e, with as many attribute values as classes, value a
being the one that goes with class a. Both effects are fitted together; a probe on pseudo-labels alone, whose cells
(y, a) are of such different sizes, drifts to the class.

Letters: n rows, d features, c classes and attribute values, k = c - 1 scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

FLOOR = 1e-6  # of P(a | y): an attribute value that a class seems to lack stays possible


@dataclass(frozen=True)
class Probe:
    """Linear scores, with unit covariance about their means under the model."""

    center: Float[np.ndarray, " d"]
    direction: Float[np.ndarray, "d k"]

    def scores(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        return (x - self.center) @ self.direction


@dataclass(frozen=True)
class Clouds:
    """Gaussian mixture of scores: a mean per attribute value, one covariance, and P(a | y)."""

    means: Float[np.ndarray, "c k"]
    covariance: Float[np.ndarray, "k k"]
    prior: Float[np.ndarray, "c c"]

    def log_density(self, z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n c"]:
        """Of each cloud, up to a constant that all share."""
        root = np.linalg.inv(np.linalg.cholesky(self.covariance))
        return -0.5 * np.square((z[:, None] - self.means) @ root.T).sum(-1)

    def posterior(
        self, z: Float[np.ndarray, "n k"], y: Int[np.ndarray, " n"], temper: float = 1.0
    ) -> Float[np.ndarray, "n c"]:
        """P(a) of each row. temper: power of P(a | y); at 1 it feeds on itself in the EM, and rare values die out."""
        return softmax(self.log_density(z) + temper * np.log(self.prior[y]))

    @property
    def separation(self) -> float:
        """Least Mahalanobis distance of two clouds."""
        distance = -2 * self.log_density(self.means)
        return float(np.sqrt(distance[~np.eye(len(distance), dtype=bool)].min()))


@dataclass(frozen=True)
class Inference:
    """Result of the EM: cross-fitted scores, their clouds, and the probes of all rows together."""

    scores: Float[np.ndarray, "n k"]
    clouds: Clouds
    attribute: Probe
    of_class: Probe


def softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def stratified_folds(y: Int[np.ndarray, " n"], n_folds: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """The fold of each row; every class is spread over all of them."""
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    folds = np.empty(len(y), dtype=int)
    folds[order] = np.arange(len(y)) % n_folds
    return folds


def probes(
    gram: Float[np.ndarray, "d d"], x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"],
    q: Float[np.ndarray, "n c"], shrinkage: float, class_effect: bool = True,
) -> tuple[Probe, Probe]:  # fmt: skip
    """Linear discriminants of attribute and class after weighted least squares of both effects together.

    gram: x'x. q: P(a) of each row. A ridge of one row lies on the attribute's effects. The residual covariance is
    shrunk to a multiple of the identity. class_effect: whether the class has one.
    """
    c, d = q.shape[1], x.shape[1]
    of_class = np.eye(c)[y] * class_effect
    design = np.block([
        [np.diag(of_class.sum(0)), of_class.T @ q], [q.T @ of_class, np.diag(q.sum(0))]
    ])  # fmt: skip
    moments = np.concatenate([of_class.T @ x, q.T @ x])
    ridge = np.repeat([1e-6 if class_effect else 1.0, 1.0], c)  # a class may have no row here
    effects = np.linalg.solve(design + np.diag(ridge), moments)
    crossed = moments.T @ effects
    covariance = (gram - crossed - crossed.T + effects.T @ design @ effects) / len(x)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(d)] += shrinkage / (1 - shrinkage) * np.trace(covariance) / d + 1e-9
    contrasts = np.linalg.qr(np.eye(c) - 1 / c)[0][:, : c - 1]  # orthonormal
    of_attribute = contrasts.T @ effects[c:]
    solved = np.linalg.solve(covariance, np.concatenate([of_attribute, effects[:c] - effects[:c].mean(0)]).T)
    center = effects[:c].mean(0) + effects[c:].mean(0)
    axes = solved[:, : c - 1]
    return Probe(center, axes @ inverse_root(of_attribute @ axes)), Probe(center, solved[:, c - 1 :])


def inverse_root(matrix: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """The symmetric one, so that scores of several folds have the same axes."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T


def fit_clouds(
    z: Float[np.ndarray, "n k"], y: Int[np.ndarray, " n"], q: Float[np.ndarray, "n c"], steps: int = 50,
    still: Clouds | None = None, temper: float = 1.0,
) -> Clouds:  # fmt: skip
    """Mixture of scores by EM from q. still: clouds of which only P(a | y) is fitted."""
    c = q.shape[1]
    of_class = np.eye(c)[y]
    for _ in range(steps):
        prior = np.maximum(of_class.T @ q / np.maximum(of_class.sum(0), 1)[:, None], FLOOR)
        if still is None:
            weight = q.sum(0) + 1e-9
            means = q.T @ z / weight[:, None]
            second = z.T @ z - (means * weight[:, None]).T @ means
            clouds = Clouds(means, second / len(z) + 1e-9 * np.eye(z.shape[1]), prior)
        else:
            clouds = replace(still, prior=prior)
        before, q = q, clouds.posterior(z, y, temper)
        if np.abs(q - before).max() < 1e-4:
            break
    return clouds


def cross_fit(
    x: Float[np.ndarray, "n d"], grams: Sequence[Float[np.ndarray, "d d"]], y: Int[np.ndarray, " n"],
    q: Float[np.ndarray, "n c"], folds: Int[np.ndarray, " n"], shrinkage: float, class_effect: bool = True,
) -> Float[np.ndarray, "n k"]:  # fmt: skip
    """Scores of each fold by the probe of the others. grams: x'x of each."""
    z, total = np.empty((len(x), q.shape[1] - 1)), sum(grams)
    for fold, gram in enumerate(grams):
        out = folds == fold
        probe, _ = probes(total - gram, x[~out], y[~out], q[~out], shrinkage, class_effect)
        z[out] = probe.scores(x[out])
    return z


def infer(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], *, folds: Int[np.ndarray, " n"], rounds: int,
    shrinkage: float, start: Float[np.ndarray, "n c"] | None = None, temper: float = 1.0,
) -> Inference:  # fmt: skip
    """The EM. start: P(a) of each row; without one, a discriminant of the classes says how much a row looks like each.

    Every value goes with the class of its number, so that no two of them can be exchanged.
    """
    c = int(y.max()) + 1
    grams = [x[folds == fold].T @ x[folds == fold] for fold in range(folds.max() + 1)]
    q = start
    if q is None:
        known = np.eye(c)[y]
        z = cross_fit(x, grams, y, known, folds, shrinkage, class_effect=False)
        one = fit_clouds(z, y, known, steps=1)
        q = softmax(one.log_density(z) + np.log(known.mean(0)))
    for _ in range(rounds):
        z = cross_fit(x, grams, y, q, folds, shrinkage)
        clouds = fit_clouds(z, y, q, temper=temper)
        q = clouds.posterior(z, y, temper)
    return Inference(z, clouds, *probes(sum(grams), x, y, q, shrinkage))

"""Groups of validation found from train's and validation's features and classes, and whether to believe them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from hsfm.features.embeddings import Embeddings
from hsfm.heads.inferred_groups.guard import p_wrong_labels
from hsfm.heads.inferred_groups.infer import fit_clouds, infer, softmax, stratified_folds
from hsfm.heads.inferred_groups.two_clouds import along, p_two_clouds

TRAIN = {"rounds": 4, "shrinkage": 0.3}
VAL = {"rounds": 6, "shrinkage": 0.5}
TRAIN_FOLDS, VAL_FOLDS = 4, 5
# chosen on style tuned by train's true attribute: 0.9 of the minority found, 0.4 at 1; the gate's level is that of 1
TEMPER = 0.5
COMPONENTS = 256  # of train's features, by principal components
BLOCK = 8192  # rows that are summed in float64 at once


@dataclass(frozen=True)
class Found:
    """Attribute values by the class that they go with, for both splits, and how sure they are."""

    train: Int[np.ndarray, " n"]
    val: Int[np.ndarray, " m"]
    posterior: Float[np.ndarray, " m"]  # that a row's attribute goes with its class, under equal shares
    score: Float[np.ndarray, " m"]  # 0 in the middle of the cloud that goes with the class, 1 in the others'
    p_gate: float  # that the scores of a class are one cloud
    p_guard: float  # that the minority is wrong labels
    separation: float  # of the clouds, in standard deviations
    shares: Float[np.ndarray, "c c"]  # of each value within each class of val

    def table(self, val: Embeddings) -> pd.DataFrame:
        """One row per image of val."""
        y = val.y.numpy()
        columns = {"image_id": val.image_id, "y": y, "score": self.score, "posterior": self.posterior}
        return pd.DataFrame({**columns, "found": self.val, "found_group": y * len(self.shares) + self.val})


def find_groups(train: Embeddings, val: Embeddings, *, fold_seeds: int) -> Found:
    """Groups by features and classes alone; the folds are drawn by fixed seeds.

    fold_seeds: divisions into folds that the gate is measured on.
    """
    (y, y_val), (x, x_val) = (train.y.numpy(), val.y.numpy()), standardized(train, val)
    axes = principal_axes(x)
    x, projected = project(x, axes), project(x_val, axes)
    of_train = infer(x, y, folds=stratified_folds(y, TRAIN_FOLDS, np.random.default_rng(0)), temper=TEMPER, **TRAIN)
    z = of_train.attribute.scores(projected)
    clouds = fit_clouds(z, y_val, np.full((len(y_val), val.n_classes), 1 / val.n_classes), still=of_train.clouds)
    density = clouds.log_density(z)
    x_val = project(x_val, principal_axes(x_val, min(x_val.shape)))  # a rotation, to no more axes than rows
    of_val = infer(
        x_val,
        y_val,
        folds=stratified_folds(y_val, VAL_FOLDS, np.random.default_rng(0)),
        start=clouds.posterior(z, y_val),
        **VAL,
    )
    both = softmax((density + of_val.clouds.log_density(of_val.scores)) / 2)
    found = both.argmax(1)
    return Found(
        train=of_train.clouds.log_density(of_train.scores).argmax(1),
        val=found,
        posterior=both[np.arange(len(found)), y_val],
        score=along(of_train.clouds, z, y_val),
        p_gate=p_two_clouds(x, y, seeds=fold_seeds, folds=TRAIN_FOLDS, **TRAIN),
        p_guard=p_wrong_labels(density, of_train.of_class.scores(projected), y_val),
        separation=of_train.clouds.separation,
        shares=np.array([np.bincount(found[y_val == k], minlength=val.n_classes) for k in range(val.n_classes)])
        / np.bincount(y_val)[:, None],
    )


def standardized(train: Embeddings, val: Embeddings) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Features on train's mean and spread; those without variation are 0."""
    x = train.features.numpy()
    mean, spread = x.mean(0, dtype=float), x.std(0, dtype=float)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    return tuple(((part - mean) * scale).astype(np.float32) for part in (x, val.features.numpy()))


def principal_axes(x: Float[np.ndarray, "n d"], most: int = COMPONENTS) -> Float[np.ndarray, "d k"]:
    """The axes of most variance, at most as many as rows."""
    n, d = x.shape
    if n < d:  # from the smaller product
        values, vectors = np.linalg.eigh(x.astype(float) @ x.T.astype(float))
        return x.T @ vectors[:, -most:] / np.sqrt(np.maximum(values[-most:], 1e-9 * values[-1]))
    if d <= most:
        return np.eye(d)
    return np.linalg.eigh(sum(b.T @ b for b in blocks(x)))[1][:, -most:]


def project(x: Float[np.ndarray, "n d"], axes: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "n k"]:
    return np.concatenate([block @ axes for block in blocks(x)])


def blocks(x: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "k d"]]:
    return (x[i : i + BLOCK].astype(float) for i in range(0, len(x), BLOCK))

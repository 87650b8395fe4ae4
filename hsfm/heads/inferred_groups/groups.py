"""Groups of validation found from train's and validation's features and classes, and whether to believe them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch.utils.weak import WeakTensorKeyDictionary

from hsfm.features.embeddings import Embeddings
from hsfm.heads.inferred_groups.guard import p_wrong_labels
from hsfm.heads.inferred_groups.infer import Clouds, Inference, fit_clouds, infer, softmax, stratified_folds
from hsfm.heads.inferred_groups.two_clouds import along, p_two_clouds, shape_along

TRAIN = {"rounds": 4, "shrinkage": 0.3}
VAL = {"rounds": 6, "shrinkage": 0.5}
TRAIN_FOLDS, VAL_FOLDS = 4, 5
# Equal shares while train is searched: with its own a class may lose its minority for good. Chosen by train's true
# attribute on 16 networks, on none of which 0.5 found more (docs/explanation/idfr.md). The gate tries POWERS.
TEMPER = 0.0
LEVEL = 0.05  # largest p of the gate at which inferred groups are used
VAL_SHARE = 0.2  # of the level, where val is searched because train shows nothing
COMPONENTS = 256  # of train's features, by principal components
_SEARCHED = WeakTensorKeyDictionary()  # what was found on features that still exist, by all else that it depends on
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
    clouds: Clouds  # train's, with the shares of a mixture on val

    def table(self, val: Embeddings) -> pd.DataFrame:
        """One row per image of val; `attrs` has the mixture along the score, by class, and both tests."""
        y = val.y.numpy()
        columns = {"image_id": val.image_id, "y": y, "score": self.score, "posterior": self.posterior}
        table = pd.DataFrame({**columns, "found": self.val, "found_group": y * len(self.shares) + self.val})
        centers, spread = shape_along(self.clouds)
        mixture = {"centers": centers.tolist(), "spread": spread.tolist(), "prior": self.clouds.prior.tolist()}
        table.attrs = {"class_names": list(val.class_names), **mixture, **self.numbers}
        return table

    @property
    def numbers(self) -> dict[str, float]:
        return {"p_gate": self.p_gate, "p_guard": self.p_guard, "separation": self.separation}


@dataclass(frozen=True)
class Space:
    """Train's mean, spread and principal axes."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]  # 0 of a feature without variation
    axes: Float[np.ndarray, "d k"]  # of the standardized features

    def project(self, rows: Embeddings) -> Float[np.ndarray, "n k"]:
        return np.concatenate([block @ self.axes for block in standardized(rows, self.mean, self.scale)])


@dataclass(frozen=True)
class Trained:
    """Attribute as it was found on train."""

    space: Space
    found: Inference
    p_gate: float  # that the scores of a class are one cloud


def standardized(
    rows: Embeddings, mean: Float[np.ndarray, " d"], scale: Float[np.ndarray, " d"]
) -> Iterator[Float[np.ndarray, "k d"]]:
    """Blocks of rows in float64, so that no second copy of a large split lies in memory."""
    x = rows.features.numpy()
    return ((x[i : i + BLOCK] - mean) * scale for i in range(0, len(x), BLOCK))


def space_of(train: Embeddings) -> Space:
    x = train.features.numpy()
    (n, d), nothing = x.shape, np.ones(x.shape[1])
    mean = sum(block.sum(0) for block in standardized(train, np.zeros(d), nothing)) / n
    spread = np.sqrt(sum(np.square(block).sum(0) for block in standardized(train, mean, nothing)) / n)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    return Space(mean, scale, principal_axes(lambda: standardized(train, mean, scale), n, d))


def search_train(train: Embeddings, *, fold_seeds: int) -> Trained:
    """Attribute by features and classes alone; the folds are drawn by fixed seeds.

    fold_seeds: divisions into folds that the gate is measured on.
    """
    space, y = space_of(train), train.y.numpy()
    x, folds = space.project(train), stratified_folds(y, TRAIN_FOLDS, np.random.default_rng(0))
    found = infer(x, y, folds=folds, temper=TEMPER, **TRAIN)
    return Trained(space, found, p_two_clouds(x, y, seeds=fold_seeds, folds=TRAIN_FOLDS, **TRAIN))


def find_groups(train: Embeddings, val: Embeddings, *, fold_seeds: int) -> Found:
    """Groups by features and classes alone. fold_seeds: as `search_train` has it.

    Train is searched once, however many splits follow with the same tensor of features; and so is val, for each train.
    """
    searched, key = _SEARCHED.setdefault(train.features, {}), (fold_seeds, *_state(train))
    if key not in searched:
        searched[key] = search_train(train, fold_seeds=fold_seeds), WeakTensorKeyDictionary()
    trained, found = searched[key]
    of_val = found.setdefault(val.features, {})
    if _state(val) not in of_val:
        of_val[_state(val)] = groups_of(trained, train, val, fold_seeds=fold_seeds)
    return of_val[_state(val)]


def groups_of(trained: Trained, train: Embeddings, val: Embeddings, *, fold_seeds: int) -> Found:
    """Groups of both splits by what was found on train; by what val shows where train shows no two clouds.

    Both gates together keep the level: train's p counts by four fifths of it, val's by one.
    """
    found = carry_over(trained, val)
    p_train = trained.p_gate / (1 - VAL_SHARE)
    if p_train > LEVEL:
        of_val = search_val(train, val, fold_seeds=fold_seeds)
        p_val = of_val.p_gate / VAL_SHARE
        if p_val <= LEVEL:
            return replace(of_val, p_gate=p_val)
    return replace(found, p_gate=min(1.0, p_train))


def _state(rows: Embeddings) -> tuple[int, bytes]:
    """Of all that is read besides the tensor of features itself, which may be edited in place."""
    return rows.features._version, rows.y.numpy().tobytes()


def carry_over(trained: Trained, val: Embeddings) -> Found:
    """Groups of val by its features and classes and by what was found on train."""
    y, c = val.y.numpy(), val.n_classes
    space, of_train = trained.space, trained.found
    projected = space.project(val)
    z = of_train.attribute.scores(projected)
    clouds = fit_clouds(z, y, np.full((len(y), c), 1 / c), still=of_train.clouds)
    density = clouds.log_density(z)
    x = np.concatenate(list(standardized(val, space.mean, space.scale)))
    x = x @ principal_axes(lambda: [x], *x.shape, most=min(x.shape))  # a rotation, to no more axes than rows
    folds = stratified_folds(y, VAL_FOLDS, np.random.default_rng(0))
    of_val = infer(x, y, folds=folds, start=clouds.posterior(z, y), **VAL)
    both = softmax((density + of_val.clouds.log_density(of_val.scores)) / 2)
    found = both.argmax(1)
    return Found(
        train=of_train.clouds.log_density(of_train.scores).argmax(1),
        val=found,
        posterior=both[np.arange(len(found)), y],
        score=along(of_train.clouds, z, y),
        p_gate=trained.p_gate,
        p_guard=p_wrong_labels(density, of_train.of_class.scores(projected), y),
        separation=of_train.clouds.separation,
        shares=shares_of(found, y, c),
        clouds=clouds,
    )


def search_val(train: Embeddings, val: Embeddings, *, fold_seeds: int) -> Found:
    """Groups of both splits by what val alone shows; the guard asks train's rows, which taught nothing here."""
    searched = search_train(val, fold_seeds=fold_seeds)
    clouds, z, y = searched.found.clouds, searched.found.scores, val.y.numpy()
    density, projected = clouds.log_density(z), searched.space.project(train)
    of_train, found = clouds.log_density(searched.found.attribute.scores(projected)), density.argmax(1)
    return Found(
        train=of_train.argmax(1),
        val=found,
        posterior=softmax(density)[np.arange(len(found)), y],
        score=along(clouds, z, y),
        p_gate=searched.p_gate,
        p_guard=p_wrong_labels(of_train, searched.found.of_class.scores(projected), train.y.numpy()),
        separation=clouds.separation,
        shares=shares_of(found, y, val.n_classes),
        clouds=clouds,
    )


def shares_of(found: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"], c: int) -> Float[np.ndarray, "c c"]:
    return np.bincount(y * c + found, minlength=c * c).reshape(c, c) / np.bincount(y, minlength=c)[:, None]


def principal_axes(
    blocks: Callable[[], Iterable[Float[np.ndarray, "k d"]]], n: int, d: int, most: int = COMPONENTS
) -> Float[np.ndarray, "d k"]:
    """The axes of most variance of n rows, which `blocks` iterates over; at most as many as rows."""
    if n < d:  # from the smaller product
        x = np.concatenate(list(blocks()))
        values, vectors = np.linalg.eigh(x @ x.T)
        return x.T @ vectors[:, -most:] / np.sqrt(np.maximum(values[-most:], 1e-9 * values[-1]))
    if d <= most:
        return np.eye(d)
    return np.linalg.eigh(sum(block.T @ block for block in blocks()))[1][:, -most:]

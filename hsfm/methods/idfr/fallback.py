"""Fallback of IDFR: AFR's weights on validation rows, a logistic regression that is shrunk to ERM's head."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize

from hsfm.core.progress import track
from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.inferred_groups.infer import stratified_folds
from hsfm.heads.logistic_regression import raw_head, scaler_of
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import weigh

FOLDS = 5


def shrunk(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], offset: Float[np.ndarray, "n c"],
    weights: Float[np.ndarray, "k n"], penalties: Sequence[float],
) -> list[Float[np.ndarray, "k d1 c"]]:  # fmt: skip
    """For each penalty and each k the V, a column of bias last, that minimizes

        sum_i w_ki CE(offset_i + x_i V) / sum_i w_ki + penalty / 2 |V|^2.

    The bias is free. Of a penalty all k are one problem of L-BFGS, which starts from the solution before: the sum of
    their losses separates, and one product with x serves them all.
    """
    x, target = np.column_stack([x, np.ones(len(x))]), np.eye(offset.shape[1])[y][..., None]
    weight = (weights / weights.sum(1, keepdims=True)).T[:, None]  # [n 1 k]
    shape, found = (x.shape[1], offset.shape[1], len(weights)), []  # k last, since numpy is slow along short axes
    spread = 0.25 * np.square(x).mean(0)[:, None, None]  # of rows on axes of their own, the loss's curvature or more

    def loss(flat: np.ndarray, ridge: np.ndarray, unit: np.ndarray) -> tuple[float, np.ndarray]:
        v = flat.reshape(shape) / unit
        pull = ridge * v
        logits = (x @ v.reshape(len(v), -1)).reshape(len(x), *shape[1:])
        logits += offset[..., None]
        logits -= logits.max(1, keepdims=True)
        share = np.exp(logits)
        total = share.sum(1, keepdims=True)
        entropy = (weight * (np.log(total) - (logits * target).sum(1, keepdims=True))).sum()
        share /= total
        share -= target
        share *= weight
        gradient = (x.T @ share.reshape(len(x), -1)).reshape(shape) + pull
        return entropy + 0.5 * (pull * v).sum(), (gradient / unit).ravel()

    v = np.zeros(shape)
    for penalty in penalties:
        ridge = np.append(np.full(len(v) - 1, penalty), 0)[:, None, None]
        unit = np.sqrt(spread + ridge)  # in which the curvature is alike along all axes
        start, how = (v * unit).ravel(), {"jac": True, "options": {"gtol": 1e-6}}
        v = minimize(loss, start, (ridge, unit), "L-BFGS-B", **how).x.reshape(shape) / unit
        found.append(v.transpose(2, 0, 1))
    return found


def fit_afr(
    val: Embeddings, erm: Head, *, gammas: Sequence[float], penalties: Sequence[float], seeds: Sequence[int],
    scorer: Scorer, called: str,
) -> Fit:  # fmt: skip
    """Heads `[s c d]`, at the gamma and penalty whose held-out logits of fivefold cross-fits score best.

    The seed draws the folds. Features are standardized; distances to ERM's head are measured there.
    """
    scaler, y = scaler_of(val.features.numpy()), val.y.numpy()
    x, offset = scaler.transform(val.features.numpy()), erm.logits(val.features).numpy().astype(float)
    # rows span at most n directions, and a rotation changes no norm
    axes = np.linalg.svd(x, full_matrices=False)[2].T if len(x) < x.shape[1] else np.linalg.eigh(x.T @ x)[1]
    x, candidates = x @ axes, list(product(gammas, penalties))
    weights = np.stack([weigh(erm, val, gamma).numpy().astype(float) for gamma in gammas])
    folds = np.stack([stratified_folds(y, FOLDS, np.random.default_rng(seed)) for seed in seeds])  # [s n]
    taught = folds[:, None] != np.arange(FOLDS)[:, None]  # [s f n]
    fits = shrunk(x, y, offset, (weights[:, None, None] * taught).reshape(-1, len(y)), penalties)
    fits = np.stack(fits).reshape(len(penalties), len(gammas), *taught.shape[:2], x.shape[1] + 1, -1)
    heads, chosen, scores, predicted, fitted = [], [], [], [], {}
    for number, fold in enumerate(track(folds, called, "head")):
        logits = np.empty((len(candidates), *offset.shape))
        for held_out in range(FOLDS):
            held = fold == held_out
            v = fits[:, :, number, held_out].swapaxes(0, 1).reshape(len(candidates), -1, offset.shape[1])
            logits[:, held] = offset[held] + x[held] @ v[:, :-1] + v[:, None, -1]
        score = scorer(torch.from_numpy(logits))
        best = int(score.argmax())
        gamma, penalty = candidates[best]
        if best not in fitted:
            v = shrunk(x, y, offset, weights[gammas.index(gamma)][None], [penalty])[0][0]
            change = raw_head((axes @ v[:-1]).T, v[-1], scaler)
            fitted[best] = Head(erm.weight + change.weight, erm.bias + change.bias)
        heads.append(fitted[best])
        chosen.append(candidates[best])
        scores.append(float(score[best]))
        predicted.append(torch.from_numpy(logits[best].argmax(-1)).short())
    said = "; ".join(f"gamma {gamma:g}, penalty {penalty:g}" for gamma, penalty in dict.fromkeys(chosen))
    by = f"gamma and penalty by the {scorer.in_words} of fivefold cross-fits of validation"
    summary = f"validation {scorer.in_words} {percent(scores)} ({said})"
    settings = dict(zip(("gamma", "penalty"), map(list, zip(*chosen, strict=True)), strict=True))
    return Fit(stack(heads), tuple(seeds), by, summary, settings=settings, held_out=torch.stack(predicted))

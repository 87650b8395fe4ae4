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
from hsfm.heads.inferred_groups.infer import softmax, stratified_folds
from hsfm.heads.logistic_regression import raw_head, scaler_of
from hsfm.heads.scorer import Scorer
from hsfm.heads.weighted_regression import weigh

FOLDS = 5


def shrunk(
    x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], offset: Float[np.ndarray, "n c"],
    weight: Float[np.ndarray, " n"], penalties: Sequence[float],
) -> list[Float[np.ndarray, "d1 c"]]:  # fmt: skip
    """The V, a column of bias last, that minimize sum_i w_i CE(offset_i + x_i V) / sum_i w_i + penalty / 2 |V|^2.

    One per penalty, each by L-BFGS from the solution before. The bias is free.
    """
    x, target = np.column_stack([x, np.ones(len(x))]), np.eye(offset.shape[1])[y]
    weight = (weight / weight.sum())[:, None]
    shape, found = (x.shape[1], offset.shape[1]), []

    def loss(flat: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        v = flat.reshape(shape)
        pull = penalty * np.vstack([v[:-1], np.zeros(shape[1])])
        logits = offset + x @ v
        top = logits.max(1, keepdims=True)
        log_sum = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
        entropy = (weight * (log_sum - (logits * target).sum(1, keepdims=True))).sum()
        gradient = x.T @ (weight * (softmax(logits) - target)) + pull
        return entropy + 0.5 * (pull * v).sum(), gradient.ravel()

    v = np.zeros(shape)
    for penalty in penalties:
        v = minimize(loss, v.ravel(), (penalty,), "L-BFGS-B", jac=True, options={"gtol": 1e-6}).x.reshape(shape)
        found.append(v)
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
    axes = np.linalg.svd(x, full_matrices=False)[2].T if len(x) < x.shape[1] else np.eye(x.shape[1])
    x, candidates = x @ axes, list(product(gammas, penalties))
    weights = [weigh(erm, val, gamma).numpy().astype(float) for gamma in gammas]
    heads, chosen, scores, predicted, fitted = [], [], [], [], {}
    for seed in track(seeds, called, "head"):
        folds = stratified_folds(y, FOLDS, np.random.default_rng(seed))
        logits = np.empty((len(candidates), *offset.shape))
        for fold in range(FOLDS):
            held, taught = folds == fold, folds != fold
            found = [v for w in weights for v in shrunk(x[taught], y[taught], offset[taught], w[taught], penalties)]
            logits[:, held] = offset[held] + x[held] @ np.array(found)[:, :-1] + np.array(found)[:, None, -1]
        score = scorer(torch.from_numpy(logits))
        number = int(score.argmax())
        gamma, penalty = best = candidates[number]
        if best not in fitted:
            v = shrunk(x, y, offset, weights[gammas.index(gamma)], [penalty])[0]
            change = raw_head((axes @ v[:-1]).T, v[-1], scaler)
            fitted[best] = Head(erm.weight + change.weight, erm.bias + change.bias)
        heads.append(fitted[best])
        chosen.append(best)
        scores.append(float(score[number]))
        predicted.append(torch.from_numpy(logits[number].argmax(-1)).short())
    said = "; ".join(f"gamma {gamma:g}, penalty {penalty:g}" for gamma, penalty in dict.fromkeys(chosen))
    by = f"gamma and penalty by the {scorer.in_words} of fivefold cross-fits of validation"
    summary = f"validation {scorer.in_words} {percent(scores)} ({said})"
    settings = dict(zip(("gamma", "penalty"), map(list, zip(*chosen, strict=True)), strict=True))
    return Fit(stack(heads), tuple(seeds), by, summary, settings=settings, held_out=torch.stack(predicted))

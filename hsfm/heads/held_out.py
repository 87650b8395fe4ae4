"""Choice of a setting by validation rows that the heads were not fitted to; methods that learn from val share it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from hsfm.core.progress import track
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, stack
from hsfm.heads.logistic_regression import halves
from hsfm.heads.scorer import Scorer

log = logging.getLogger(__name__)

On = Literal["val", "train", "both"]
# heads [k c d] of k candidates, fitted on these rows; the generator is for what it draws
Fitter = Callable[[Embeddings, Sequence[Any], np.random.Generator], Head]


def fit_chosen(
    train: Embeddings, val: Embeddings, candidates: Sequence[Any], fit: Fitter,
    *, on: On, part: Int[np.ndarray, " n"], seeds: Sequence[int], scorer: Scorer, called: str, draws: bool = False,
) -> tuple[Head, tuple[int, ...], list[Any]]:  # fmt: skip
    """Heads `[s c d]`, their seeds, and the candidate of each: the first that scores best on rows held out from it.

    on: rows that the heads learn from. `val`: candidates are fitted on one half of val and scored on the other, and the
    best is fitted on all of val. `train`: candidates are fitted on train and scored on val. `both`: candidates are
    fitted on train and one half of val, scored on the other half, and the best is fitted on all rows.

    candidates: hashable. part: of val's rows (class or group), which both halves hold. called: the method, for
    progress. draws: whether `fit` draws at random; where it does not, equal choices share one fit, and on train, where
    nothing is halved, there is one head, under the first seed.

    Raises ValueError where a part has one row only.
    """
    repeated = on != "train" or draws
    seeds = tuple(seeds if repeated else seeds[:1])
    everything = {"train": train, "val": val}.get(on) or joined(train, val)
    heads, chosen, fitted = [], [], {}
    for seed in track(seeds, called, "head"):
        rng = np.random.default_rng(seed)
        learn, held_out = (train, torch.arange(len(val.y))) if on == "train" else _halved(train, val, on, part, rng)
        tried = fit(learn, candidates, rng)
        scores = scorer(tried.logits(val.features[held_out]), held_out)
        number = int(scores.argmax())
        best = candidates[number]
        log.info("%s: %s (%s %.1f %% on held-out rows)", called, best, scorer.in_words, 100 * float(scores[number]))
        if draws or best not in fitted:
            fitted[best] = tried[number] if on == "train" else fit(everything, [best], rng)[0]
        heads.append(fitted[best])
        chosen.append(best)
    return stack(heads), seeds, chosen


def _halved(
    train: Embeddings, val: Embeddings, on: On, part: Int[np.ndarray, " n"], rng: np.random.Generator
) -> tuple[Embeddings, Int[torch.Tensor, " m"]]:
    """Rows to learn from, and rows of val to score on."""
    fit_rows, held_out = (torch.from_numpy(rows) for rows in halves(part, rng))
    half = val.take(fit_rows)
    return half if on == "val" else joined(train, half), held_out


def joined(train: Embeddings, val: Embeddings) -> Embeddings:
    """The rows of train, then those of val."""
    both = {name: torch.cat([getattr(train, name), getattr(val, name)]) for name in ("features", "y", "attribute")}
    return replace(train, **both, image_id=train.image_id + val.image_id)

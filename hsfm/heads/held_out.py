"""Choice of settings by validation rows that the heads were not fitted to; methods on embeddings share it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from hsfm.core.progress import track
from hsfm.features.embeddings import Embeddings, joined
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.logistic_regression import halves, held_out_classes
from hsfm.heads.scorer import Scorer

log = logging.getLogger(__name__)

On = Literal["val", "train", "both"]
SCORED_ON = {"val": "one half of validation", "train": "validation", "both": "one half of validation"}
# heads [k c d] of k candidates, fitted on these rows; the generator is for what it draws
Fitter = Callable[[Embeddings, Sequence[tuple], np.random.Generator], Head]


def fit_chosen(
    train: Embeddings, val: Embeddings, options: Mapping[str, Sequence[Any]], fit: Fitter,
    *, on: On, part: Int[np.ndarray, " n"], seeds: Sequence[int], scorer: Scorer, called: str, draws: bool = False,
) -> Fit:  # fmt: skip
    """Heads `[s c d]`, each at the options that score best on validation rows that it was not fitted to.

    options: values to choose from by the option's name; a candidate is one value of each, and the first of the best
    wins. fit: fits the heads of some candidates. on: rows that the heads learn from. `val`: candidates are fitted on
    one half of val and scored on the other, and the best is fitted on all of val. `train`: candidates are fitted on
    train and scored on val. `both`: candidates are fitted on train and one half of val, scored on the other half, and
    the best is fitted on all rows. part: of val's rows (class or group), which both halves hold. called: the method,
    for progress. draws: whether `fit` draws at random; where it does not, equal choices share one fit, and on train,
    where nothing is halved, there is one head, under the first seed.

    Raises ValueError where a part has one row only.
    """
    candidates = list(product(*options.values()))
    seeds = tuple(seeds if draws or on != "train" else seeds[:1])
    heads, chosen, predicted, fitted = [], [], [], {}
    for seed in track(seeds, called, "head"):
        rng = np.random.default_rng(seed)
        learned, held_out = rows_to_learn(train, val, on, part, rng)
        tried = fit(learned, candidates, rng)
        logits = tried.logits(val.features[held_out])
        scores = scorer(logits, held_out)
        number = int(scores.argmax())
        best = candidates[number]
        said = _in_words(options, [best])
        log.info("%s: %s (%s %.1f %% on held-out rows)", called, said, scorer.in_words, 100 * float(scores[number]))
        if draws or best not in fitted:
            fitted[best] = tried[number] if on == "train" else fit(all_rows(train, val, on), [best], rng)[0]
        heads.append(fitted[best])
        chosen.append(best)
        predicted.append(held_out_classes(logits[number], held_out, len(val.y)))
    return Fit(
        stack(heads),
        seeds,
        chosen_by=f"{' and '.join(options)} by the {scorer.in_words} of {SCORED_ON[on]}",
        summary=_in_words(options, chosen),
        settings={name: list(values) for name, values in zip(options, zip(*chosen, strict=True), strict=True)},
        held_out=torch.stack(predicted),
    )


def _in_words(options: Mapping[str, Sequence[Any]], chosen: Sequence[tuple]) -> str:
    """`penalty 0.1, 0.01; size 20`: one value per head, and once where they agree."""
    by_name = zip(options, zip(*chosen, strict=True), strict=True)
    different = ((name, values if len(set(values)) > 1 else values[:1]) for name, values in by_name)
    return "; ".join(f"{name} {', '.join(f'{value:g}' for value in values)}" for name, values in different)


def rows_to_learn(
    train: Embeddings, val: Embeddings, on: On, part: Int[np.ndarray, " n"], rng: np.random.Generator
) -> tuple[Embeddings, Int[torch.Tensor, " m"]]:
    """Rows that candidates are fitted on, and the rows of val that they are scored on."""
    if on == "train":
        return train, torch.arange(len(val.y))
    fit_rows, held_out = (torch.from_numpy(rows) for rows in halves(part, rng))
    half = val.take(fit_rows)
    return half if on == "val" else joined(train, half), held_out


def all_rows(train: Embeddings, val: Embeddings, on: On) -> Embeddings:
    """Rows that the chosen candidate is fitted on."""
    return {"train": train, "val": val}.get(on) or joined(train, val)

"""Excess of an accuracy that settings and epoch were chosen by, measured on halves of validation alone.

    python -m benchmarks.held_out_choice FOLDER/style_tuned FOLDER/style_frozen [--halvings 40] [--folds 2 5 10 20]

Reads {NAME}_train.npz and _val.npz with x, y, attribute. HSFM's grid is trained once, and its held-out predictions are
what is chosen by. Then one half of validation's rows chooses a point and an epoch, and the worst group of the other
half, of the same heads, is the truth that the numbers of the first half are compared with: that of the chosen point,
and `hsfm.heads.grid_choice.honest` by its numbers of folds. Percent, mean and standard error over ways to draw the
halves, which share their rows; in brackets the root mean square.
"""

import argparse
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.features.imported import import_embeddings
from hsfm.heads import grid_choice, tuning
from hsfm.heads.erm_head import fit_head
from hsfm.heads.grid_choice import Tried, honest, pick
from hsfm.heads.inferred_groups.infer import stratified_folds
from hsfm.heads.scorer import Scorer
from hsfm.methods import hsfm
from hsfm.methods.hsfm.fit import tuned


def held_out_predictions(name: str) -> tuple[Embeddings, list[Tried], list[dict], dict]:
    """Validation; of the grid's points its held-out predictions and their places; and the grid."""
    splits = import_embeddings({split: f"{name}_{split}.npz" for split in ("train", "val")}, name.rpartition("/")[2])
    val, erm = splits["val"], fit_head(splits["train"])[0]
    with quiet(), patch.object(tuning, "honest", wraps=honest) as asked:
        tuned(splits["train"], val, erm, hsfm.Settings(), Scorer(val, "worst_group"))
    return val, *asked.call_args.args[:3]


def half(val: Embeddings, batches: list[Tried], rows: Int[Tensor, " m"]) -> tuple[list[Tried], Scorer]:
    return [replace(batch, classes=batch.classes[..., rows]) for batch in batches], Scorer(
        val.take(rows), "worst_group"
    )


def gaps(val: Embeddings, batches: list[Tried], places: list, grid: dict, folds: list[int], seed: int) -> list[float]:
    """Of the chosen point's own number from the truth, and of the honest ones."""
    sides = stratified_folds(val.group.numpy(), 2, np.random.default_rng([seed, 1]))
    own, other = (torch.from_numpy(np.flatnonzero(sides == side)) for side in (0, 1))
    (chooses, scorer), (judges, judge) = (half(val, batches, rows) for rows in (own, other))
    picked = pick(chooses, places, grid, scorer)
    curves = [curve for batch in judges for curve in batch.curves(judge).T]
    truth = curves[picked.number][picked.best[picked.number]]
    found = [picked.accuracy[picked.number]]
    for count in folds:
        with patch.object(grid_choice, "FOLDS", count):
            found.append(honest(chooses, places, grid, scorer, val.y[own], seed=seed).accuracy)
    return [value - truth for value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files' paths up to _train.npz")
    parser.add_argument("--halvings", type=int, default=40)
    parser.add_argument("--folds", type=int, nargs="+", default=[2, 5, 10, 20])
    chosen = parser.parse_args()
    heads = ["set", "chosen", *(f"{count} folds" for count in chosen.folds)]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for name in chosen.names:
        parts = held_out_predictions(name)
        found = 100 * np.array([gaps(*parts, chosen.folds, seed) for seed in range(chosen.halvings)])
        error, square = found.std(0, ddof=1) / np.sqrt(len(found)), np.sqrt(np.square(found).mean(0))
        cells = [f"{m:+.1f} ± {e:.1f} ({r:.1f})" for m, e, r in zip(found.mean(0), error, square, strict=True)]
        print(f"| {' | '.join([parts[0].dataset, *cells])} |", flush=True)


if __name__ == "__main__":
    main()

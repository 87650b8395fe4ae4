"""Scores: correct predictions of heads by seed and group, as a tidy table.

Apart from `metrics`, which ERM training uses too, so that work on scores does not make a trained network stale.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from hsfm.metrics import count_by


def score(
    predictions: Int[Tensor, "s n"],
    y: Int[Tensor, " n"],
    attribute: Int[Tensor, " n"],
    *,
    seeds: Sequence[int],
    class_names: Sequence[str],
    attribute_names: Sequence[str],
) -> pd.DataFrame:
    """One row per seed and group: seed, y, attribute, group, group_name, n, correct, accuracy (a fraction).

    A group without images has n = 0 and a null accuracy. Images whose attribute is unknown are counted by class
    alone, in rows with a null attribute and group; there are such rows only where there are such images.
    """
    # one part more per class than there are attributes: the unknown ones
    n_attributes = len(attribute_names)
    part = y * (n_attributes + 1) + torch.where(attribute < 0, n_attributes, attribute)
    hits, images = count_by(predictions == y, part, len(class_names) * (n_attributes + 1))
    rows = []
    for seed, seed_hits in zip(seeds, hits.tolist(), strict=True):
        for number, (correct, n) in enumerate(zip(seed_hits, images.tolist(), strict=True)):
            label, a = divmod(number, n_attributes + 1)
            known = a < n_attributes
            if not known and n == 0:
                continue
            rows.append(
                {
                    "seed": seed,
                    "y": label,
                    "attribute": a if known else None,
                    "group": label * n_attributes + a if known else None,
                    "group_name": f"{class_names[label]}, {attribute_names[a] if known else 'unknown'}",
                    "n": n,
                    "correct": correct,
                    "accuracy": correct / n if n else None,
                }
            )
    frame = pd.DataFrame(rows)
    return frame.astype({"attribute": "Int32", "group": "Int32", "accuracy": "float64"})

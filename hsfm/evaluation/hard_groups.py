"""Groups in the hard sets that a method trained on, counted from the rows that it used."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from hsfm.features.embeddings import Embeddings


def tables_of(arrays: Mapping[str, np.ndarray], seeds: Sequence[int], val: Embeddings) -> dict[str, pd.DataFrame]:
    """Tables from a fit's arrays and the labels of validation, which the method may not have seen."""
    return {"hard_groups": count_groups(arrays["hard_rows"], seeds, val)} if "hard_rows" in arrays else {}


def count_groups(rows: Int[np.ndarray, "s e m"], seeds: Sequence[int], val: Embeddings) -> pd.DataFrame:
    """Images by seed, epoch (from 1), y and attribute (null where unknown), of every pair that val has; n is 0 too."""
    part = (val.y * (val.n_attributes + 1) + val.attribute.where(val.attribute >= 0, val.n_attributes)).cpu().numpy()
    here = np.unique(part)
    counts = (part[rows][..., None] == here).sum(axis=2)  # [s e p]
    n_epochs = rows.shape[1]
    y, attribute = np.divmod(np.tile(here, len(seeds) * n_epochs), val.n_attributes + 1)
    frame = pd.DataFrame(
        {
            "seed": np.repeat(np.asarray(seeds), n_epochs * len(here)),
            "epoch": np.tile(np.arange(1, n_epochs + 1).repeat(len(here)), len(seeds)),
            "y": y,
            "attribute": pd.array(attribute, "Int64"),
            "n": counts.flatten().astype(np.int64),
        }
    )
    return frame.assign(attribute=frame["attribute"].mask(frame["attribute"] == val.n_attributes))

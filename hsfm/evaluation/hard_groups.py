"""Groups in the hard sets that a method trained on, counted from the rows that it used."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from hsfm.features.embeddings import Embeddings


def count_groups(rows: Int[np.ndarray, "s e m"], seeds: Sequence[int], val: Embeddings) -> pd.DataFrame:
    """Images by seed, epoch (from 1), y and attribute (null where unknown), of every pair that val has; n is 0 too."""
    part = (val.y * (val.n_attributes + 1) + val.attribute.where(val.attribute >= 0, val.n_attributes)).cpu().numpy()
    here = np.unique(part)
    counts = (part[rows][..., None] == here).sum(axis=2)  # [s e p]
    epochs = range(1, rows.shape[1] + 1)
    index = pd.MultiIndex.from_product([seeds, epochs, here], names=["seed", "epoch", "part"])
    frame = pd.Series(counts.flatten(), index, name="n").reset_index()
    y, attribute = np.divmod(frame.pop("part"), val.n_attributes + 1)
    frame.insert(2, "y", y)
    frame.insert(3, "attribute", attribute.astype("Int64").mask(attribute == val.n_attributes))
    return frame
